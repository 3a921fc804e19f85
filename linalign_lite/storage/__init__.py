"""Files on the local disk and under URLs: written whole or not at all, and read strictly.

Paths, URLs and bytes go in; arrays, JSON documents and digests come out. `atomic` writes and opens
files, `npz` reads and writes archives of arrays, `schema` reads JSON documents, `hashing` computes
digests, `places` fetches and delivers files wherever they are, `remote` uses fsspec.
"""

MAGIC = b"LINALIGN"  # the first bytes of keys, queries, responses and bundles

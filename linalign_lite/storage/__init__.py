"""Files: written whole or not at all, and read with care.

Paths, URLs and bytes go in; arrays, JSON documents and digests come out. `atomic` writes and opens
files, `npz` holds the archive format, `schema` reads JSON documents, `hashing` makes digests,
`remote` reaches URLs through fsspec (extra `remote`).
"""

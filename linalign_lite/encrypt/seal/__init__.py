"""CKKS through ``tenseal.sealapi``: the only folder that loads it.

Byte strings of keys and ciphertexts go in and come out. `context` holds parameters and keys,
`serialization` moves SEAL's objects in and out of memory, `secret_side` and `server_side` are the
two sides, `scheme` joins them. Importing this package loads nothing.
"""

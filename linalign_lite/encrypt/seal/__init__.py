"""CKKS through ``tenseal.sealapi``: the only folder that loads it.

In and out: byte strings of keys and ciphertexts. `context` holds parameters and loads keys,
`serialization` saves and loads SEAL's objects, `secret_side` and `server_side` are the two sides,
`scheme` combines them. Importing this package loads nothing.
"""

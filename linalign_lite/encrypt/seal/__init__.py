"""CKKS through ``tenseal.sealapi``: the only folder that loads it.

In and out: byte strings of keys and ciphertexts. `context` holds parameters and loads keys,
`serialization` saves and loads SEAL's objects, `server_side` computes without the secret key,
`scheme` adds the side that holds it. Importing this package loads nothing.
"""

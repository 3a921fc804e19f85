"""Encrypted scoring: a provider applies its head to states that it cannot read.

In: hidden states, a head, keys. Out: queries, responses, decrypted scores. The client
(`client.Client`) holds the secret key, encrypts states and decrypts scores; the provider
(`provider.Provider`) holds the head. docs/FORMAT.md, section 3, describes the files and
docs/SECURITY.md the protection. Importing this package loads no encryption library.
"""

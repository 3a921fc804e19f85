"""Encrypted scoring: a provider applies its head to states that it cannot read.

The client holds the secret key, encrypts states (`client.Client`) and decrypts scores; the provider
(`provider.Provider`) holds the head. docs/FORMAT.md, section 3, has the files; docs/SECURITY.md
says what is protected and what is not. Importing this package loads no encryption library.
"""

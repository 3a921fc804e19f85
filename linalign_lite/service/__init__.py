"""A scoring service over HTTP, and the client that asks one.

In: a configuration, heads, public keys and queries. Out: responses, as files in section 3 of
docs/FORMAT.md have them. The extra `serve` installs what it needs.
"""

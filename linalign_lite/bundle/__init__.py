"""One signed file of maps, heads, models, public keys and wheels for a machine without a network.

docs/FORMAT.md, section 7. `layout` says what may be in one, `signing` who made it, `writing` makes
it, `reading` checks and installs it.
"""

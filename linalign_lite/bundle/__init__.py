"""Bundles: one signed file of maps, heads, models, public keys and wheels for offline machines.

Files and a signing key go in; a `.bundle` comes out, which a recipient verifies and installs.
docs/FORMAT.md, section 7. `file_format` has the manifest and its rules, `file_types` recognises
files by content, `writing` creates, `reading` verifies and installs.
"""

"""Migrations of a collection of vectors to another embedding model, with a map, measured first.

In: locations of the documents, and of a sample of them that the new model has embedded. Out: a
folder with a plan, maps, and what was verified and applied. docs/FORMAT.md, section 11.
"""

"""Indexes: folders of document vectors as fixed-point rows, for search in the clear or encrypted.

In: vectors from anywhere. Out: a folder with a card, ids and shards of rows; rankings.
docs/FORMAT.md, section 12.
"""

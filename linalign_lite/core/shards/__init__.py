"""Folders of hidden states larger than memory, written and read one shard at a time.

HiddenStates go in and come out shard by shard, with the digests of docs/FORMAT.md, section 5.
`manifest` describes a finished folder, `plan` an unfinished one; `states_folder` reads finished
folders, `writer` writes one that a killed run can continue, on disk or under a URL.
"""

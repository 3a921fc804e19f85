"""Folders of hidden states larger than memory: shards, their manifest, and unfinished runs.

Hidden states go in part by part and come out part by part, with the digests of docs/FORMAT.md,
section 5. `states_folder` reads, `resuming` writes a folder on disk, `uploading` one under a URL.
"""

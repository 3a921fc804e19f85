"""Moments of hidden states larger than memory: shard by shard, in one process or by many workers.

Folders of shards go in, `PairedMoments` come out. `measure` cuts the work into leaves, `pairs`
reads and pairs their rows, `merge_tree` adds them up in an order that follows from the folders
alone, and `dask_executor` hands them to a dask scheduler (extra `dask`).
"""

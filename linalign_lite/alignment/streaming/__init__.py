"""Moments of hidden states larger than memory: shard by shard, in one process or by many workers.

Folders of shards go in, `PairedMoments` come out. `measure` cuts the work into leaves and merges
their moments in an order that follows from the folders alone, `pairs` reads and pairs their rows,
and `dask_executor` hands them to a dask scheduler (extra `dask`).
"""

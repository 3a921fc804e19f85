"""Vectors in files and stores of many kinds, with ids and payload, read and written in batches.

In: locations (`x.parquet#column`, `qdrant:PATH#collection`). Out: `VectorSource`, `VectorSink`. A
back end is one module of `files` or `stores` with a `Source` and a `Sink`, named in
`locations.BACKENDS`.
"""

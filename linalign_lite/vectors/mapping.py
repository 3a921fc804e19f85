"""Apply a map to vectors on their way from a source to a sink; an interrupted run is resumed."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.executor import prefetch
from linalign_lite.errors import InputError
from linalign_lite.vectors.locations import create_vectors
from linalign_lite.vectors.source import VectorInfo, Vectors, VectorSink, VectorSource

BATCH = 12 << 20  # bytes of the vectors that are read together
_WAITING = 2  # batches that wait to be written

Progress = Callable[[int], None]


def apply_map(
    affine: AffineMap,
    source: VectorSource,
    out: str,
    *,
    normalize: bool | None = None,
    known: Mapping[str, Vectors] | None = None,
    progress: Progress | None = None,
) -> VectorInfo:
    """Write weight·x + bias of every vector x of a source to a location, with ids and payload.

    normalize: scale results to length 1; None: if the map's target space is. known: vectors (d,)
    of the target space by id, which are written instead of mapped ones. What an interrupted
    run of the same map and source left is continued, where the sink can (Parquet, stores). Two
    threads read and write meanwhile; few batches are in memory. progress: called with the number
    of vectors written since the last call, those of an earlier run included.

    Returns the info of what was written. Raises MismatchError for vectors of another space than the
    map's source, and what `open_vectors` and `create_vectors` raise; nothing is visible then.
    """
    known = known or {}
    info = mapped_info(affine, source.info, normalize, known)
    scaled = info.space.normalize
    single = dataclasses.replace(
        affine, weight=affine.weight.astype(np.float32), bias=affine.bias.astype(np.float32)
    )
    tally = progress or (lambda _: None)
    rows = max(1, BATCH // (4 * max(source.info.dim, info.dim)))
    with create_vectors(out, info, resume=True) as sink, _resumable(sink):
        if sink.cursor.isdecimal():
            tally(int(sink.cursor))
        with ThreadPoolExecutor(1) as writer:
            pending: list[Future[None]] = []
            for batch in prefetch(source.batches(rows, sink.cursor)):
                if len(pending) == _WAITING:
                    pending.pop(0).result()
                vectors = mapped(single, batch.vectors, normalize=scaled)
                for i, own in enumerate(batch.ids) if known else ():
                    if own in known:
                        vectors[i] = known[own]
                pending.append(
                    writer.submit(sink.write, dataclasses.replace(batch, vectors=vectors))
                )
                tally(len(batch))
            for future in pending:
                future.result()
        sink.finish()
    return info


def mapped(affine: AffineMap, vectors: Vectors, *, normalize: bool) -> Vectors:
    """Return mapped vectors, (n, d_target) float32, of length 1 if ``normalize``."""
    found: Vectors = affine.apply(vectors).astype(np.float32, copy=False)
    if normalize:
        lengths = np.sqrt(np.einsum("ij,ij->i", found, found))[:, None]
        np.divide(found, lengths, out=found, where=lengths > 0)
    return found


def mapped_info(
    affine: AffineMap, info: VectorInfo, normalize: bool | None, known: Mapping[str, Vectors]
) -> VectorInfo:
    """Return the info of mapped vectors; its version is the digest of all that they depend on."""
    affine.source.require(info.space, "the map does not fit these vectors")
    if normalize is None:
        normalize = affine.target.normalize
    job = hashlib.sha256(f"{info.version} {info.space} {normalize}".encode())
    for part in (affine.weight, affine.bias):
        job.update(np.ascontiguousarray(part).tobytes())
    for own, vector in known.items():
        job.update(own.encode("utf-8", "surrogatepass") + vector.tobytes())
    space = dataclasses.replace(affine.target, normalize=normalize)
    return dataclasses.replace(info, space=space, version=job.hexdigest())


@contextlib.contextmanager
def _resumable(sink: VectorSink) -> Iterator[None]:
    """On an interruption keep what a later run can continue; an InputError aborts."""
    try:
        yield
    except InputError:
        raise
    except BaseException:
        sink.suspend()
        raise

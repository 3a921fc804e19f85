"""The contract of a back end of vectors: `check_back_end` writes to it, reads it and misuses it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from linalign_lite.errors import InputError, MismatchError
from linalign_lite.vectors.checks import DuplicateIdError
from linalign_lite.vectors.locations import create_vectors, open_vectors
from linalign_lite.vectors.source import Batch, VectorInfo, named_space


def made(n=23, d=5, *, payload=True, seed=0):
    """One batch of n vectors with ids and payload."""
    rng = np.random.default_rng(seed)
    rows = tuple({"label": f"kind {i % 3}", "year": 1900 + i} for i in range(n))
    ids = tuple(f"doc-{i}" for i in range(n))
    vectors = rng.normal(size=(n, d)).astype(np.float32)
    return Batch(ids, vectors, rows if payload else None)


def parts(batch, rows):
    for at in range(0, len(batch), rows):
        piece = slice(at, at + rows)
        payload = None if batch.payload is None else batch.payload[piece]
        yield Batch(batch.ids[piece], batch.vectors[piece], payload, str(at + rows))


def write(location, batch, rows=7, **info):
    space = named_space(batch.vectors.shape[1], "maker/model-1")
    write_all(location, VectorInfo(space, len(batch), **info), parts(batch, rows))


def write_all(location, info, batches):
    with create_vectors(location, info) as sink:
        for batch in batches:
            sink.write(batch)
        sink.finish()


def read(location, rows=6, after=""):
    """All batches of a location, put together, and its info."""
    with open_vectors(location) as source:
        found = list(source.batches(rows, after))
        info = source.info
    assert all(len(b) <= rows for b in found)
    ids = sum((b.ids for b in found), ())
    payload = None
    if found[0].payload is not None:
        payload = tuple(dict(row) for b in found for row in b.payload)
    return Batch(ids, np.concatenate([b.vectors for b in found]), payload), info, found


def check_back_end(location, *, keeps_ids=True, keeps_payload=True, absent=None):
    """Write to a new location and read it; abort; refuse what is wrong. absent(): nothing there."""
    batch = made()
    absent = absent or (lambda: _is_absent(location))
    assert absent()
    _check_refusals(location, batch, absent)

    write(location, batch)
    found, info, pieces = read(location)
    assert info.dim == 5
    assert info.count in (None, len(batch))
    order = range(len(batch))
    if keeps_ids:  # a store has an order of its own
        order = [found.ids.index(i) for i in batch.ids]
        assert sorted(found.ids) == sorted(batch.ids)
    else:
        assert found.ids == tuple(map(str, order))
    np.testing.assert_allclose(found.vectors[list(order)], batch.vectors, rtol=1e-6)
    if keeps_payload:
        assert [found.payload[i] for i in order] == list(batch.payload)

    again, _, _ = read(location)
    assert again.ids == found.ids
    for piece, _following in pairwise(pieces):  # continues after every cursor
        rest, _, _ = read(location, after=piece.cursor)
        seen = found.ids.index(piece.ids[-1]) + 1
        assert rest.ids == found.ids[seen:]
    with pytest.raises(InputError):
        read(location, rows=0)


def _check_refusals(location, batch, absent):
    """Whatever goes wrong, nothing is left."""
    info = VectorInfo(named_space(5), len(batch))
    with create_vectors(location, info) as sink:
        sink.write(batch)  # and no finish
    assert absent()
    with pytest.raises(MismatchError, match="dimension"):
        write_all(location, info, [made(d=6)])
    broken = made()
    broken.vectors[3, 1] = np.nan
    with pytest.raises(InputError, match="not finite"):
        write_all(location, info, [batch, broken])
    twice = Batch((*batch.ids[:-1], batch.ids[0]), batch.vectors)
    with pytest.raises(DuplicateIdError):
        write_all(location, info, [twice])
    assert absent()


def _is_absent(location):
    try:
        open_vectors(location).close()
    except InputError:
        return True
    return False

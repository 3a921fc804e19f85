"""The contract of a store, beyond `contract.check_back_end`: kills, switches, properties."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vectors.contract import made, parts, read, write

from linalign_lite.errors import InputError, MismatchError, OutputExistsError
from linalign_lite.vectors.locations import create_vectors, open_vectors
from linalign_lite.vectors.source import Batch, VectorInfo, named_space
from linalign_lite.vectors.stores.common import StoreFullError
from linalign_lite.vectors.switching import switch_vectors

# of text that PostgreSQL can hold too
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
floats = st.floats(-1e12, 1e12, allow_nan=False)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


keys = st.from_regex(r"[a-z][a-z0-9_]{0,7}", fullmatch=True).filter(lambda k: k not in TAKEN)
TAKEN = ("id", "vector", "embedding")
columns = st.sampled_from(
    [texts, floats, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.lists(texts, min_size=1)]
)


@st.composite
def batches(draw, columnar=False):
    """A batch; columnar: all rows have the same keys, and each key one type."""
    n, d = draw(st.integers(1, 9)), draw(st.integers(1, 5))
    ids = draw(st.lists(texts.filter(bool), min_size=n, max_size=n, unique=True))
    numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
    flat = draw(st.lists(numbers, min_size=n * d, max_size=n * d))
    if columnar:
        rows = st.fixed_dictionaries(draw(st.dictionaries(keys, columns, min_size=1, max_size=3)))
    else:
        rows = st.dictionaries(texts.filter(bool), values, min_size=1, max_size=3)
    payload = draw(st.none() | st.tuples(*[rows] * n))
    return Batch(tuple(ids), np.array(flat, np.float32).reshape(n, d), payload)


def check_round_trips(fresh, columnar=False, examples=20):
    """Ids, payload and the bits of float32 come out as they went in. fresh(): a new location."""

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(batches(columnar), st.integers(1, 10), st.integers(1, 10))
    def holds(batch, written, read_rows):
        location = fresh()
        write(location, batch, rows=written)
        found, info, _ = read(location, rows=read_rows)
        assert info.model == "maker/model-1"
        order = [found.ids.index(i) for i in batch.ids]
        assert len(found) == len(batch)
        assert found.vectors[order].tobytes() == batch.vectors.tobytes()
        assert (found.payload is None) == (batch.payload is None)
        if batch.payload is not None:
            assert [found.payload[i] for i in order] == list(batch.payload)

    holds()


def read_slowly(location, between):
    """Read five rows at a time, and call between(number of the batch, source) after each."""
    with open_vectors(location) as source:
        for i, _ in enumerate(source.batches(5)):
            between(i, source.source)


def write_slowly(location, between):
    """Write five rows at a time, and call between(number of the batch, sink) before each."""
    with create_vectors(location, VectorInfo(named_space(5, "maker/model-1"), 23)) as sink:
        for i, part in enumerate(parts(made(), 5)):
            between(i, sink.sink)
            sink.write(part)
        sink.finish()


@contextlib.contextmanager
def small_disk(folder):
    """A disk of 4 MB, in a folder that is there."""
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this system lets no process mount a disk (unshare)")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def check_full_disk(location, folder):
    """A disk that is full is named, and nothing is there but what a later run continues."""
    batch = made(n=3000, d=500, payload=False)
    with small_disk(folder):
        with pytest.raises(StoreFullError, match="make room"):
            write(location, batch, rows=200)
        with pytest.raises(InputError, match="not there"):
            open_vectors(location)
        gc.collect()  # the error holds a removed file open
        write(location, made())  # there is room for little
        assert len(read(location)[0]) == 23


KILLED = """
import os, signal, sys
from vectors.contract import made, parts
from linalign_lite.vectors.locations import create_vectors
from linalign_lite.vectors.source import VectorInfo, named_space

sink = create_vectors(sys.argv[1], VectorInfo(named_space(5, "maker/model-1"), 23))
for i, part in enumerate(parts(made(), 5)):
    if i == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    sink.write(part)
"""


def killed(location):
    """A run that is killed when it has written 15 of 23 vectors."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", KILLED, location]
    done = subprocess.run(command, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL


def check_kill(location, absent):
    """A kill leaves nothing to be seen; the next run resumes, or starts again."""
    info = VectorInfo(named_space(5, "maker/model-1"), 23)
    killed(location)
    assert absent()
    with pytest.raises(InputError):
        open_vectors(location)
    for other in (
        VectorInfo(named_space(6, "maker/model-1"), 23),
        VectorInfo(named_space(5, "maker/model-1"), 23, version="digest of another map"),
        VectorInfo(named_space(5, "maker/model-1"), 23, metric="cosine"),
    ):
        with pytest.raises(MismatchError, match="interrupted run"):
            create_vectors(location, other, resume=True)
    with create_vectors(location, info, resume=True) as sink:
        assert sink.cursor == "15"
        sink.write(list(parts(made(), 5))[3])
        sink.suspend()  # and leaving the block then removes nothing
    with create_vectors(location, info, resume=True) as sink:
        assert sink.cursor == "20"
        for part in list(parts(made(), 5))[4:]:
            sink.write(part)
        assert absent()
        sink.finish()
    found, _, _ = read(location)
    order = [found.ids.index(i) for i in made().ids]
    np.testing.assert_array_equal(found.vectors[order], made().vectors)


def check_switch(live, new):
    """Another collection takes the place of one, and gives it back; neither is changed."""
    old, mapped = made(seed=1), made(n=11, d=3, seed=2)
    write(live, old)
    write(new, mapped)

    def is_live(batch):
        found, _, _ = read(live)
        order = [found.ids.index(i) for i in batch.ids]
        assert len(found) == len(batch)
        np.testing.assert_array_equal(found.vectors[order], batch.vectors)
        assert [found.payload[i] for i in order] == list(batch.payload)

    former = switch_vectors(live, new)
    is_live(mapped)
    found, _, _ = read(former)
    assert sorted(found.ids) == sorted(old.ids)
    after = switch_vectors(live, former)  # undone
    is_live(old)
    assert len(read(after)[0]) == len(mapped)
    switch_vectors(live, after)
    is_live(mapped)
    with pytest.raises(InputError):
        switch_vectors(live, live)
    with pytest.raises(InputError):
        switch_vectors(live, "elsewhere.npy")
    is_live(mapped)


def check_metrics(live, new):
    """The metric is kept, and one collection does not take the place of one of another metric."""
    for metric in ("dot", "euclidean"):
        write(f"{live}_{metric}", made(), metric=metric)
        with open_vectors(f"{live}_{metric}") as source:
            assert source.info.metric == metric
    with pytest.raises(MismatchError, match="metric"):
        switch_vectors(f"{live}_dot", f"{live}_euclidean")
    unit = made()
    unit.vectors[:] /= np.linalg.norm(unit.vectors, axis=1, keepdims=True)
    write(new, unit, metric="cosine")
    found, info, _ = read(new)
    assert info.metric == "cosine"
    order = [found.ids.index(i) for i in unit.ids]
    np.testing.assert_allclose(found.vectors[order], unit.vectors, atol=1e-6)


def check_untouched(location):
    """A collection that is there is never overwritten."""
    write(location, made())
    for resume in (False, True):
        with pytest.raises(OutputExistsError):
            create_vectors(location, VectorInfo(named_space(5)), resume=resume)
    assert len(read(location)[0]) == 23
    with pytest.raises(InputError, match="no vectors"):
        write(f"{location}_empty", Batch((), made().vectors[:0]))

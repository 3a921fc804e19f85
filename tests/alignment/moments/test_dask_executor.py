"""A real cluster of separate processes: the same bits, whoever is killed meanwhile."""

from __future__ import annotations

import os
import signal

import pytest
from moment_cases import folder
from test_measuring import same

from linalign_lite import demo
from linalign_lite.alignment.moments_io import load_moments
from linalign_lite.alignment.streaming.dask_executor import connected
from linalign_lite.alignment.streaming.measure import measure_shards
from linalign_lite.commands import main
from linalign_lite.errors import InputError, MissingExtraError
from linalign_lite.extraction.pipeline import extract_to
from linalign_lite.extraction.session import load_model

distributed = pytest.importorskip("distributed")
pytest.importorskip("fsspec")


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as found:
        yield found


@pytest.fixture
def folders(tmp_path):
    sizes = [40] * 30
    return folder(tmp_path / "x", "x", sizes), folder(tmp_path / "y", "y", sizes)


def test_a_cluster_gives_the_bits_of_one_process(cluster, folders, tmp_path):
    alone = measure_shards(*folders, leaf_rows=80)
    with connected(cluster.scheduler_address) as (executor, in_flight):
        assert in_flight == 4
        same(measure_shards(*folders, leaf_rows=80, executor=executor, in_flight=in_flight), alone)
    out = tmp_path / "o.moments.npz"
    address = ["--scheduler", cluster.scheduler_address]
    paths = [str(f.folder) for f in folders]
    assert main(["moments", *paths, str(out), *address]) == 0
    same(load_moments(out), measure_shards(*folders), rtol=1e-14)
    assert main(["fit", *paths, str(tmp_path / "o.map.npz"), *address]) == 0
    urls = [f"local://{path}" for path in paths]  # the disk, as a filesystem of fsspec
    assert main(["moments", *urls, f"local://{tmp_path}/u.moments.npz", *address]) == 0
    same(load_moments(tmp_path / "u.moments.npz"), load_moments(out))


@pytest.mark.slow
def test_a_killed_worker_costs_only_its_tasks(cluster, folders):
    alone = measure_shards(*folders, leaf_rows=40)
    with connected(cluster.scheduler_address) as (executor, _):
        victim = executor.submit(os.getpid).result()
        assert victim != os.getpid()
        seen = []

        def kill_once(texts):
            seen.append(texts)
            if len(seen) == 3:
                os.kill(victim, signal.SIGKILL)

        found = measure_shards(
            *folders, leaf_rows=40, executor=executor, in_flight=6, progress=kill_once
        )
    same(found, alone)
    assert sum(seen) == 1200


def test_extraction_by_a_cluster_is_extraction_here(cluster, tmp_path):
    model = load_model(demo.model_folder("ash"), threads=1)
    texts = [f"The cat number {i} ran to the house." for i in range(23)]
    here = extract_to(tmp_path / "here", model, texts, shard_texts=5)
    with connected(cluster.scheduler_address) as (executor, in_flight):
        there = extract_to(
            tmp_path / "there", model, texts, shard_texts=5, executor=executor,
            in_flight=in_flight, threads=1,
        )  # fmt: skip
    assert [s.sha256 for s in there.shards] == [s.sha256 for s in here.shards]
    lines = tmp_path / "texts.txt"
    lines.write_text("\n".join(texts))
    out = tmp_path / "command"
    assert main([
        "extract", str(model.folder), str(lines), str(out), "--shard-texts", "5", "--threads", "1",
        "--scheduler", cluster.scheduler_address,
    ]) == 0  # fmt: skip
    assert main([
        "extract", str(model.folder), f"local://{lines}", f"local://{tmp_path}/url", "--threads",
        "1", "--shard-texts", "5", "--scheduler", cluster.scheduler_address,
    ]) == 0  # fmt: skip
    for name in (p.name for p in out.iterdir()):
        assert (tmp_path / "url" / name).read_bytes() == (out / name).read_bytes()
    assert (out / "00003.states.npz").read_bytes() == (
        tmp_path / "here" / "00003.states.npz"
    ).read_bytes()


def test_a_scheduler_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr("linalign_lite.alignment.streaming.dask_executor.TIMEOUT", 1)
    with (
        pytest.raises(InputError, match=r"no dask scheduler answers: got tcp://127.0.0.1:9"),
        connected("tcp://127.0.0.1:9"),
    ):
        pass


def test_without_the_extra_it_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(MissingExtraError, match=r"pip install 'linalign-lite\[dask\]'"),
        connected("tcp://x:1"),
    ):
        pass

"""The cache computes nothing twice, and never uses incomplete or stale entries."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from linalign_lite import demo
from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.extraction.model_card import load_card, seal_card
from linalign_lite.survey.artefacts import ArtefactStore
from linalign_lite.survey.cache import digest, open_cache
from linalign_lite.survey.config import SurveyConfig, TextFile
from linalign_lite.survey.results import NativeRow, OodRow

ROW = NativeRow("a", "b", 0.5, 0.25, 0.75)


@pytest.fixture
def disk_cache(tmp_path):
    return open_cache(tmp_path / "cache")


class Counter:
    def __init__(self, value):
        self.value, self.calls = value, 0

    def __call__(self):
        self.calls += 1
        return self.value


def test_a_survey_may_take_each_models_own_pooling(disk_cache, tmp_path):
    (tmp_path / "t.txt").write_text("a dog ran\na cat sat\n")
    models = {name: demo.model_folder(name) for name in ("ash", "birch")}
    (last := tmp_path / "last").mkdir()
    for file in models["birch"].iterdir():
        (last / file.name).write_bytes(file.read_bytes())
    seal_card(last, replace(load_card(last), pooling="last"))
    texts = TextFile(tmp_path / "t.txt")
    config = SurveyConfig({**models, "last": last}, texts, pooling="model")
    store = ArtefactStore(config, disk_cache)
    found = [store.states(name, texts).space.pooling for name in config.models]
    assert found == ["mean", "mean", "last"]


def test_a_model_may_have_a_prompt(disk_cache, tmp_path):
    (tmp_path / "t.txt").write_text("a dog ran\na cat sat\n")
    texts = TextFile(tmp_path / "t.txt")
    models = {name: demo.model_folder(name) for name in ("ash", "birch")}
    plain, prompted = (
        ArtefactStore(SurveyConfig(models, texts, prompts=prompts), disk_cache)
        for prompts in ({}, {"ash": "topic: "})
    )
    assert prompted.states("ash", texts).space.prompt == "topic: "
    assert (
        np.abs(prompted.states("ash", texts).states - plain.states("ash", texts).states).max()
        > 0.01
    )
    assert prompted.inputs(("ash",)) != plain.inputs(("ash",))
    assert prompted.inputs(("birch",)) == plain.inputs(("birch",))
    assert prompted.states("ash", texts, "tokens").space.prompt == ""


def test_rows_are_made_once(disk_cache, tmp_path):
    make = Counter([ROW, ROW])
    first = disk_cache.rows("step", {"x": 1}, NativeRow, make)
    again = open_cache(tmp_path / "cache").rows("step", {"x": 1}, NativeRow, make)
    assert first == again == (ROW, ROW)
    assert make.calls == 1
    disk_cache.rows("step", {"x": 2}, NativeRow, make)  # other inputs
    disk_cache.rows("other", {"x": 1}, NativeRow, make)  # another step
    assert make.calls == 3


def test_rows_with_points_come_back_as_they_were(disk_cache):
    figures = (0.5, 0.25, 0.75, 0.125, ((0.0, 0.0), (1.0, 1.0)))
    row = OodRow("a", "a", "d", "native", "native", "knn", *figures)
    disk_cache.rows("s", {}, OodRow, lambda: [row])
    assert disk_cache.rows("s", {}, OodRow, Counter(None)) == (row,)


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b'{"rows": [], "seconds": "1"}', b'{"rows": [{"x": 1}], "seconds": 1.0}'],
)
def test_a_damaged_entry_is_made_again(disk_cache, damage):
    make = Counter([ROW])
    disk_cache.rows("step", {}, NativeRow, make)
    (file,) = disk_cache.folder.glob("*.json")
    file.write_bytes(damage)
    assert disk_cache.rows("step", {}, NativeRow, make) == (ROW,)
    assert make.calls == 2


@pytest.mark.parametrize("kind", ["states", "map", "head"])
def test_things_are_kept_in_the_projects_own_formats(disk_cache, kind):
    thing = {
        "states": HiddenStates(np.ones((3, 2), "f4")),
        "map": AffineMap(np.ones((2, 3), "f4"), np.ones(2, "f4")),
        "head": Head(np.ones((2, 3), "f4"), np.ones(2, "f4"), ("x", "y")),
    }[kind]
    make = Counter(thing)
    ask = partial(disk_cache.artefact, kind)
    assert ask("step", {}, make) is thing
    found = ask("step", {}, make)
    assert type(found) is type(thing)
    assert make.calls == 1
    # the marker is written last: without it the file beside it counts for nothing
    (marker,) = disk_cache.folder.glob("*.json")
    (file,) = disk_cache.folder.glob("*.npz")
    content = marker.read_bytes()
    marker.unlink()
    ask("step", {}, make)
    assert make.calls == 2
    marker.write_bytes(content)
    file.write_bytes(file.read_bytes()[:-20])  # and a truncated file is made again
    ask("step", {}, make)
    assert make.calls == 3


def test_what_fails_leaves_nothing(disk_cache):
    def fail():
        raise KeyboardInterrupt

    for ask in (
        lambda: disk_cache.rows("s", {}, NativeRow, fail),
        lambda: disk_cache.artefact("map", "m", {}, fail),
    ):
        with pytest.raises(KeyboardInterrupt):
            ask()
    assert list(disk_cache.folder.iterdir()) == []


def test_times_say_what_was_taken_from_before(disk_cache, tmp_path):
    disk_cache.rows("s", {}, NativeRow, lambda: [ROW])
    disk_cache.rows("s", {}, NativeRow, lambda: [ROW])
    (time,) = disk_cache.times  # a step is listed once
    assert (time.step, time.cached) == ("s", False)
    later = open_cache(tmp_path / "cache")
    later.rows("s", {}, NativeRow, lambda: [ROW])
    assert later.times[0].cached
    assert later.times[0].seconds == pytest.approx(time.seconds, abs=1e-3)


def test_a_digest_depends_on_everything():
    keys = [{"a": 1}, {"a": 2}, {"b": 1}, {"a": 1, "b": None}, {"a": "1"}, {"a": [1]}]
    assert len({digest(k) for k in keys}) == len(keys)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})

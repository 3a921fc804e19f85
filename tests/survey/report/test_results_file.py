"""results.json: stable bytes, every field, and errors for anything undocumented."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import made_results, small_results
from support import ROOT

from linalign_lite.errors import FormatError, InputError
from linalign_lite.survey import results as rows
from linalign_lite.survey import results_file, validation
from linalign_lite.survey.results import Results
from linalign_lite.survey.results_file import load_results, save_results
from linalign_lite.survey.validation import KEYS, check_results

GOLDEN = ROOT / "tests" / "golden" / "v1.results.json"


def refused(tmp_path, content):
    path = tmp_path / "x.json"
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    path.write_bytes(raw)
    with pytest.raises(FormatError) as e:
        load_results(path)
    assert "x.json" in str(e.value)
    assert str(e.value).isprintable()
    return str(e.value)


def golden():
    return json.loads(GOLDEN.read_text())


def replaced(part, **fields):
    """The small results with the first row of a part changed."""
    small = small_results()
    first, *others = getattr(small, part)
    changed = (dataclasses.replace(first, **fields), *others)
    return dataclasses.replace(small, **{part: changed})


@pytest.mark.parametrize("made", [made_results, small_results])
def test_round_trip(tmp_path, made):
    save_results(tmp_path / "a.json", made())
    assert load_results(tmp_path / "a.json") == made()
    save_results(tmp_path / "b.json", load_results(tmp_path / "a.json"))
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_the_golden_file_has_these_bytes_and_loads(tmp_path):
    save_results(tmp_path / "a.json", small_results())
    assert (tmp_path / "a.json").read_bytes() == GOLDEN.read_bytes()
    assert load_results(GOLDEN) == small_results()


def test_every_field_is_documented():
    text = (ROOT / "docs" / "FORMAT.md").read_text(encoding="utf-8")
    section = text[text.index("### `results.json`") :]
    kinds = [k for k in vars(rows).values()
             if dataclasses.is_dataclass(k) and k.__module__ == rows.__name__]  # fmt: skip
    assert len(kinds) == 15
    for kind in kinds:
        for field in dataclasses.fields(kind):
            assert f"`{field.name}`" in section, (kind.__name__, field.name)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not a usable file of survey results"),
        (b"\xff", "is not a usable file of survey results"),
        (b"[1]", "is not a file of survey results"),
        (b"null", "is not a file of survey results"),
        (b'{"format": "linalign-survey"}', "unknown version"),
        (b'{"format": "linalign-survey", "version": 2}', "got 2, expected 1"),
        (b'{"format": "linalign-survey", "version": true}', "unknown version"),
        (b'{"format": "linalign-survey", "version": 1}', "results lacks fields: expected "),
        (b"[" * 100_000, "is not a usable file of survey results"),
        (b'{"a":' * 100_000, "is not a usable file of survey results"),
        (b"1" * 5000, "is not a usable file of survey results"),
    ],
)
def test_what_is_no_results_file_is_named(tmp_path, content, words):
    assert words in refused(tmp_path, content)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(more=1), "results has unknown fields: got more"),
        (lambda d: d.pop("title"), "results lacks fields: expected title"),
        (lambda d: d["models"][0].update(more=1), "models[0] has unknown fields: got more"),
        (lambda d: d["models"][0].pop("dim"), "models[0] lacks fields: expected dim"),
        (lambda d: d.update(models={}), "results.models is not a list"),
        (lambda d: d.update(models=[[]]), "models[0] is not an object: got a list"),
        (
            lambda d: d.update(seed="7"),
            "results.seed is not usable: got text, expected a whole number",
        ),
        (lambda d: d.update(seed=7.0), "results.seed"),
        (lambda d: d.update(seed=True), "results.seed is not usable: got true or false"),
        (lambda d: d.update(seed=-1), "results.seed is not usable: got -1, expected 0 to"),
        (lambda d: d.update(seed=10**400), "results.seed"),
        (lambda d: d.update(title="x" * 257), "results.title"),
        (lambda d: d.update(title="a\nb"), "results.title"),
        (lambda d: d.update(title="a\u202eb"), "results.title"),
        (lambda d: d.update(title="\ud800"), "results.title"),
        (lambda d: d["native"][0].update(accuracy=None), "native[0].accuracy"),
        (lambda d: d["curves"][1].update(accuracy="1"), "curves[1].accuracy"),
        (lambda d: d["times"][0].update(cached=0), "times[0].cached"),
        (lambda d: d["projections"][0].update(explained=[1.0]), "another length"),
        (lambda d: d["ood"][1].update(roc=[[0.0, 0.0, 0.0]]), "another length"),
        (lambda d: d["ood"][1].update(roc=[[0.0, 2.0]]), "out of range"),
    ],
)
def test_wrong_fields_are_named(tmp_path, change, words):
    content = golden()
    change(content)
    assert words in refused(tmp_path, content)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "-1e400"])
def test_numbers_that_are_none_are_refused(tmp_path, text):
    raw = GOLDEN.read_text().replace("0.738", text)
    assert text in raw
    refused(tmp_path, raw.encode())


def test_a_file_that_is_too_large_is_not_parsed(tmp_path):
    path = tmp_path / "x.json"
    with path.open("wb") as f:
        f.truncate(results_file.MAX_BYTES + 1)
    with pytest.raises(FormatError, match="too large"):
        load_results(path)
    with pytest.raises(InputError, match="a folder"):
        load_results(tmp_path)


@pytest.mark.parametrize(
    ("part", "fields", "words"),
    [
        ("native", {"model": "oak"}, "native[0].model is not a model of this survey"),
        ("native", {"data": "oak"}, "native[0].data is not a data set"),
        ("classification", {"source": "oak"}, "classification[0].source is not a model"),
        ("generation", {"target": "oak"}, "generation[0].target is not a model"),
        ("curves", {"data": "oak"}, "curves[0].data is not a data set"),
        ("native", {"accuracy": 1.01}, "native[0].accuracy is out of range: expected 0 to 1"),
        ("native", {"accuracy": -0.01}, "native[0].accuracy"),
        ("ood", {"auroc": 1.5}, "ood[0].auroc"),
        ("similarity", {"value": 1e31}, "similarity[0].value"),
        ("generation", {"cross_entropy": -1.0}, "generation[0].cross_entropy"),
        ("data", {"train": -1}, "data[0].train"),
        ("models", {"name": "birch é"}, "one name twice"),
        ("models", {"name": ""}, "one name twice or none"),
        ("projections", {"labels": ("food",)}, "same texts on both sides: got 2, 2, 1"),
        ("projections", {"native": ((0.0, 1e31), (0.0, 0.0))}, "out of range"),
    ],
)
def test_rows_that_do_not_hang_together_are_named(part, fields, words):
    with pytest.raises(InputError) as e:
        check_results(replaced(part, **fields))
    assert words in str(e.value)


@pytest.mark.parametrize("part", KEYS)
def test_no_two_rows_say_the_same(part):
    small = made_results()
    check_results(small)
    twice = dataclasses.replace(small, **{part: getattr(small, part) * 2})
    with pytest.raises(InputError, match=f"two rows of {part} have the same key"):
        check_results(twice)


def test_too_many_of_anything_is_refused(monkeypatch):
    small = small_results()
    many = tuple(dataclasses.replace(small.models[0], name=f"m{i}") for i in range(33))
    with pytest.raises(InputError, match="models are too many"):
        check_results(dataclasses.replace(small, models=many))
    times = tuple(rows.TimeRow(f"step {i}", 1.0, False) for i in range(20))
    monkeypatch.setattr(validation, "MOST_ROWS", 19)
    with pytest.raises(InputError, match="too many times"):
        check_results(dataclasses.replace(small, times=times))
    detectors = tuple(
        dataclasses.replace(small.ood[0], detector=f"d{i}")
        for i in range(validation.MOST_KINDS + 1)
    )
    monkeypatch.setattr(validation, "MOST_ROWS", 1000)
    with pytest.raises(InputError, match="ood: detector takes too many values"):
        check_results(dataclasses.replace(small, ood=detectors))


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
)  # fmt: skip
ANYTHING = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.dictionaries(st.text(max_size=5), SCALARS, max_size=3),
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_value_in_any_place_is_a_result_or_a_named_error(tmp_path_factory, data):
    """Replace the value at any place of the golden file."""
    content = golden()
    places = list(_places(content))
    container, key = data.draw(st.sampled_from(places))
    container[key] = data.draw(ANYTHING)
    path: Path = tmp_path_factory.mktemp("any") / "x.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    try:
        found = load_results(path)
    except FormatError as e:
        assert str(e).isprintable()  # noqa: PT017
    else:
        assert isinstance(found, Results)
        save_results(path, found)
        assert load_results(path) == found


def _places(value):
    keys = value if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])

"""The strict reader of JSON documents: types, checks, format, version and seal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linalign_lite.errors import FormatError, InputError
from linalign_lite.storage.hashing import seal_of
from linalign_lite.storage.schema import (
    Range,
    Sha256,
    Size,
    Text,
    format_errors,
    parse,
    read_document,
    strict_json,
)


@dataclass(frozen=True)
class Inner:
    name: Annotated[str, Text(most=5, least=1)]
    point: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Outer:
    count: Annotated[int, Range(1, 9)]
    task: Literal["embed", "generate"]
    inner: Annotated[tuple[Inner, ...], Size(2)]
    normalize: bool
    cap: float | None = None
    files: Mapping[str, int] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    digest: Sha256 = "0" * 64


GOOD: dict[str, Any] = {
    "count": 3,
    "task": "embed",
    "inner": [{"name": "a", "point": [1, 2.5]}],
    "normalize": True,
    "cap": 2,
    "files": {"x": 1},
    "info": {"any": [None]},
}


def test_a_document_becomes_its_data_class():
    found = parse(Outer, GOOD)
    inner = (Inner("a", (1.0, 2.5)),)
    assert found == Outer(3, "embed", inner, True, 2.0, {"x": 1}, {"any": [None]})
    assert type(found.cap) is float
    assert parse(Outer, json.loads(json.dumps(asdict(found)))) == found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 0}, r"it\.count is not usable: got 0, expected 1 to 9"),
        ({"count": True}, r"it\.count is not usable: got true or false, expected a whole number"),
        ({"count": 3.0}, r"it\.count is not usable: got 3.0, expected a whole number"),
        ({"task": "speak"}, r"it\.task is unknown: got speak, expected embed, generate"),
        (
            {"normalize": 1},
            r"it\.normalize is not usable: got a whole number, expected true or false",
        ),
        ({"inner": {}}, r"it\.inner is not a list: got an object"),
        ({"inner": [GOOD] * 3}, r"it\.inner is not usable: got 3 long, expected 0 to 2 entries"),
        ({"inner": [{"name": ""}]}, r"it\.inner\[0\]\.name is not usable: got 0 long"),
        ({"inner": [{"name": "a\n"}]}, r"it\.inner\[0\]\.name is not usable"),
        ({"inner": [{"name": "a", "point": [1]}]}, r"point has another length: got 1, expected 2"),
        ({"inner": [[]]}, r"it\.inner\[0\] is not an object: got a list"),
        ({"cap": "2"}, r"it\.cap is not usable: got text, expected a number"),
        ({"cap": 1 << 2000}, r"it\.cap is not usable"),
        ({"cap": float("inf")}, r"it\.cap is not usable: got inf, expected a number"),
        ({"files": {"x": "1"}}, r"it\.files\.x is not usable"),
        ({"files": []}, r"it\.files is not an object"),
        ({"digest": "0" * 63}, r"it\.digest is not usable: got 63 long"),
        ({"digest": "G" * 64}, r"it\.digest is not usable"),
        ({"more": 1}, "it has unknown fields: got more, expected count, task"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(InputError, match=message):
        parse(Outer, {**GOOD, **change})


@pytest.mark.parametrize("name", ["count", "task", "inner", "normalize"])
def test_a_missing_field_is_named(name):
    with pytest.raises(InputError, match=f"it lacks fields: expected {name}$"):
        parse(Outer, {k: v for k, v in GOOD.items() if k != name})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from([*GOOD, "more"]), json_values))
def test_no_value_gets_past_it_or_raises_anything_else(change):
    try:
        found = parse(Outer, {**GOOD, **change})
    except InputError:
        return
    assert type(found.count) is int
    assert 1 <= found.count <= 9
    assert type(found.normalize) is bool


def document(**fields: Any) -> bytes:
    raw = {"format": "linalign-x", "version": 1, **fields}
    return json.dumps({**raw, "seal": seal_of(raw)}).encode()


def read(raw: bytes, **more: Any) -> dict[str, Any]:
    return read_document(raw, "x.json", "model card", kind="linalign-x", version=1, **more)


def test_format_version_and_seal_are_checked():
    assert read(document(a=1), sealed=True) == {"a": 1}
    with pytest.raises(FormatError, match=r"x.json does not agree with its own digest"):
        read(document(a=1).replace(b'"a": 1', b'"a": 2'), sealed=True)
    with pytest.raises(FormatError, match=r"unknown version: got 2, expected 1 to 1"):
        read(document(version=2), sealed=True)
    with pytest.raises(FormatError, match="unknown version: got True"):
        read(document(version=True), sealed=True)
    for raw in (b"[]", b"{}", b'{"format": "linalign-y", "version": 1}'):
        wanted = r"x.json is not a model card: got \w+(-y)?, expected format linalign-x"
        with pytest.raises(FormatError, match=wanted):
            read(raw)
    for raw in (b"", b"\xff", b'{"format": NaN}', b"[" * 100_000):
        with pytest.raises(FormatError, match=r"x.json is not a usable model card"):
            read(raw)


def test_what_a_block_finds_wrong_becomes_one_kind_of_error():
    for error in (ValueError("secret"), KeyError("secret"), RecursionError("secret")):
        wanted = pytest.raises(FormatError, match=r"^x is not a usable card: got ")
        with wanted as caught, format_errors("x", "card"):
            raise error
        assert "secret" not in str(caught.value)
    with pytest.raises(FormatError, match=r"^x: too few$"), format_errors("x", "card"):
        raise InputError("too few")
    inner = FormatError("as it is")
    with pytest.raises(FormatError) as kept, format_errors("x", "card"):
        raise inner
    assert kept.value is inner


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "[1, NaN]"])
def test_numbers_that_json_does_not_have_are_refused(text):
    with pytest.raises(ValueError, match=r"is not JSON|is too large"):
        strict_json(text.encode())

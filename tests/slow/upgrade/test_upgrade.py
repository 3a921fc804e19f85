"""Files of every version that was are read by today's loaders, and say what they said then."""

from __future__ import annotations

import json

import pytest
from readers import KINDS, golden_files, kinds_of, read
from record import recorded

RECORDED = recorded()


def differences(then, now, within, at=""):
    """List the places where ``now`` differs from ``then``. Added fields are no difference."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in then:
            if key not in now:
                yield f"{at}.{key} is gone"
            else:
                yield from differences(then[key], now[key], within, f"{at}.{key}")
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for i, (a, b) in enumerate(zip(then, now, strict=True)):
            yield from differences(a, b, within, f"{at}[{i}]")
    elif isinstance(then, float) and isinstance(now, (int, float)):
        if not abs(then - now) <= within:
            yield f"{at}: {now}, was {then}"
    elif type(then) is not type(now) or then != now:
        yield f"{at}: {now!r}, was {then!r}"


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_it_says_what_it_said(name, tmp_path):
    [(kind, _)] = kinds_of(name)
    now = json.loads(json.dumps(read(name, tmp_path)))
    assert not list(differences(RECORDED[name], now, kind.within))


def test_every_golden_file_is_recorded_and_none_was_dropped():
    assert golden_files() == sorted(RECORDED), "new: python tests/slow/upgrade/record.py"
    for name in RECORDED:
        assert len(kinds_of(name)) == 1, name


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_every_version_that_is_read_has_a_golden_file(kind):
    found = {version for name in RECORDED for k, version in kinds_of(name) if k is kind}
    assert found == set(range(kind.oldest, kind.newest + 1))


def test_the_comparison_can_fail():
    then = {"a": [1.0, 2.0], "b": "x"}
    assert list(differences(then, {"a": [1.0, 2.1], "b": "x"}, 0.0)) == [".a[1]: 2.1, was 2.0"]
    assert list(differences(then, {"a": [1.0], "b": "x"}, 0.0))
    assert list(differences(then, {"a": [1.0, 2.0]}, 0.0)) == [".b is gone"]
    assert not list(differences(then, {"a": [1.0, 2.0 + 1e-9], "b": "x", "c": 1}, 1e-6))

"""Fit of wheels and platforms, against the package `packaging`, which pip uses."""

from __future__ import annotations

import pytest

from linalign_lite.bundle.wheels import Platform, Wheel, require_fit
from linalign_lite.errors import InputError

HERE = Platform("3.11", "manylinux_2_28_x86_64")


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("a-1-py3-none-any.whl", True),
        ("a-1-py2.py3-none-any.whl", True),
        ("a-1-py2-none-any.whl", False),
        ("a-1-py312-none-any.whl", False),
        ("a-1-py310-none-any.whl", True),
        ("a-1.0-cp311-cp311-manylinux_2_28_x86_64.whl", True),
        ("a-1.0-cp311-cp311-manylinux_2_29_x86_64.whl", False),
        ("a-1.0-cp311-cp311-manylinux_3_0_x86_64.whl", False),
        ("a-1.0-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl", True),
        ("a-1.0-cp311-cp311-manylinux2014_x86_64.whl", True),
        ("a-1.0-cp311-cp311-manylinux1_x86_64.whl", True),
        ("a-1.0-cp311-cp311-manylinux_2_17_aarch64.whl", False),
        ("a-1.0-cp311-cp311-musllinux_1_1_x86_64.whl", False),
        ("a-1.0-cp311-cp311-macosx_11_0_arm64.whl", False),
        ("a-1.0-cp311-cp311-win_amd64.whl", False),
        ("a-1.0-cp38-abi3-manylinux_2_17_x86_64.whl", True),
        ("a-1.0-cp312-abi3-manylinux_2_17_x86_64.whl", False),
        ("a-1.0-cp310-cp310-manylinux_2_17_x86_64.whl", False),
        ("a-1.0-cp311-none-manylinux_2_17_x86_64.whl", True),
        ("a-1.0-pp311-pypy311_pp73-manylinux_2_17_x86_64.whl", False),
        ("a-1.0-cp311-cp311t-manylinux_2_17_x86_64.whl", False),
    ],
)
def test_fit(name, fits):
    tags = pytest.importorskip("packaging.tags")
    utils = pytest.importorskip("packaging.utils")
    platforms = [f"manylinux_2_{i}_x86_64" for i in range(28, 4, -1)]
    platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
    supported = {
        *tags.cpython_tags((3, 11), platforms=platforms),
        *tags.compatible_tags((3, 11), "cp311", platforms=platforms),
    }
    *_, mine = utils.parse_wheel_filename(name)
    assert bool(mine & supported) == fits, "the case is wrong"
    if fits:
        require_fit(Wheel.parse(name), HERE)
    else:
        with pytest.raises(InputError, match="is for another"):
            require_fit(Wheel.parse(name), HERE)


@pytest.mark.parametrize(
    ("tag", "wanted", "fits"),
    [
        ("macosx_11_0_arm64", "macosx_14_0_arm64", True),
        ("macosx_11_0_universal2", "macosx_14_0_arm64", True),
        ("macosx_11_0_x86_64", "macosx_14_0_arm64", False),
        ("macosx_15_0_arm64", "macosx_14_0_arm64", False),
        ("win_amd64", "win_amd64", True),
        ("win32", "win_amd64", False),
        ("musllinux_1_1_x86_64", "musllinux_1_2_x86_64", True),
        ("linux_x86_64", "linux_x86_64", True),
    ],
)
def test_other_systems(tag, wanted, fits):
    wheel = Wheel.parse(f"a-1.0-cp311-cp311-{tag}.whl")
    if fits:
        require_fit(wheel, Platform("3.11", wanted))
    else:
        with pytest.raises(InputError, match="another platform"):
            require_fit(wheel, Platform("3.11", wanted))


@pytest.mark.parametrize(
    "name",
    ["a.whl", "a-1.whl", "a-1-py3-none.whl", "a-x-py3-none-any.whl", "a-1-py3-none-any.zip",
     "-1-py3-none-any.whl", "a b-1-py3-none-any.whl", "a-1 -r x-py3-none-any.whl",
     "a-1-py3-none-any.whl\n", "../a-1-py3-none-any.whl", "a-1-py3-none-any.whl.whl.",
     "é-1-py3-none-any.whl"],
)  # fmt: skip
def test_names_that_are_no_wheels(name):
    with pytest.raises(InputError, match="name of a wheel"):
        Wheel.parse(name)


def test_names():
    wheel = Wheel.parse("Pydantic_Core-2.50.5+cpu-1b-cp311-cp311-manylinux_2_17_x86_64.whl")
    assert (wheel.project, wheel.version) == ("pydantic-core", "2.50.5+cpu")


def test_this_machine_has_a_platform_that_its_own_wheels_fit():
    tags = pytest.importorskip("packaging.tags")
    here = Platform.here()
    assert here.tag in {t.platform for t in tags.sys_tags()}


@pytest.mark.parametrize(
    ("python", "tag"),
    [("3", "linux_x86_64"), ("2.7", "win32"), ("3.11", "any"), ("3.11", "Linux"), ("3.11", ""),
     (3.11, "win32"), ("3.11", None)],
)  # fmt: skip
def test_platforms_that_are_none(python, tag):
    with pytest.raises(InputError, match="is not usable"):
        Platform(python, tag)

"""Names of Python wheels and the platforms that they fit. PEP 427, 425, 600 and 656."""

from __future__ import annotations

import platform as machine
import re
import sys
import sysconfig
from dataclasses import dataclass

from linalign_lite.errors import InputError

_WHEEL = re.compile(
    r"(?P<project>[A-Za-z0-9](?:[A-Za-z0-9._]*[A-Za-z0-9])?)-(?P<version>[0-9][A-Za-z0-9._+!]*)"
    r"(?:-[0-9][A-Za-z0-9_.]*)?-(?P<python>[a-z0-9_.]+)-(?P<abi>[a-z0-9_.]+)"
    r"-(?P<tag>[a-z0-9_.]+)\.whl",
    re.ASCII,
)
_TAG = re.compile(r"[a-z0-9_]{1,60}")
_PYTHON = re.compile(r"3\.([0-9]{1,2})")
_VERSIONED = re.compile(r"(manylinux|musllinux|macosx)_([0-9]{1,3})_([0-9]{1,3})_(\w+)")
_LEGACY = {
    "manylinux1_": "manylinux_2_5_",
    "manylinux2010_": "manylinux_2_12_",
    "manylinux2014_": "manylinux_2_17_",
}
_UNIVERSAL = {"universal2": ("x86_64", "arm64"), "universal": ("x86_64", "i386")}


@dataclass(frozen=True)
class Platform:
    """The platform to install wheels on."""

    python: str  # "3.11"
    tag: str  # "manylinux_2_34_x86_64"

    def __post_init__(self) -> None:
        if not isinstance(self.python, str) or not _PYTHON.fullmatch(self.python):
            raise InputError("a Python version is not usable", expected="such as 3.11")
        if not isinstance(self.tag, str) or not _TAG.fullmatch(self.tag) or self.tag == "any":
            raise InputError("a platform is not usable", expected="such as manylinux_2_34_x86_64")

    @classmethod
    def here(cls) -> Platform:
        """The platform of this process."""
        tag = re.sub(r"[-.]", "_", sysconfig.get_platform())
        libc, version = machine.libc_ver()
        if sys.platform == "linux" and libc == "glibc":
            major, minor = version.split(".")[:2]
            tag = f"manylinux_{major}_{minor}_{machine.machine()}"
        return cls(f"{sys.version_info[0]}.{sys.version_info[1]}", tag)


@dataclass(frozen=True)
class Wheel:
    """The parts of a wheel's file name."""

    name: str
    project: str  # normalised: pydantic_core is pydantic-core
    version: str
    pythons: tuple[str, ...]
    abis: tuple[str, ...]
    tags: tuple[str, ...]

    @classmethod
    def parse(cls, name: str) -> Wheel:
        """Parse a file name. Raises InputError when it is not that of a wheel."""
        found = _WHEEL.fullmatch(name)
        if not found:
            raise InputError(
                "a file does not have the name of a wheel",
                got=ascii(name)[:80],
                expected="NAME-VERSION-PYTHON-ABI-PLATFORM.whl",
            )
        project = re.sub(r"[-_.]+", "-", found["project"]).lower()
        python, abi, tag = (tuple(found[n].split(".")) for n in ("python", "abi", "tag"))
        return cls(name, project, found["version"], python, abi, tag)


def require_fit(wheel: Wheel, platform: Platform) -> None:
    """Raise InputError when ``wheel`` cannot be installed on ``platform``."""
    minor = int(platform.python[2:])
    if not any(_python_fits(p, a, minor) for p in wheel.pythons for a in wheel.abis):
        raise InputError(
            f"{wheel.name} is for another Python",
            got=".".join(wheel.pythons),
            expected=platform.python,
            hint="download it with pip's --python-version, or name another --python",
        )
    if not any(_tag_fits(tag, platform.tag) for tag in wheel.tags):
        raise InputError(
            f"{wheel.name} is for another platform",
            got=".".join(wheel.tags),
            expected=f"any or {platform.tag}",
            hint="download it with pip's --platform, or name another --platform",
        )


def _python_fits(python: str, abi: str, minor: int) -> bool:
    """Return True if CPython 3.``minor`` supports the tags ``python`` and ``abi``."""
    found = re.fullmatch(r"(py|cp)3([0-9]{0,2})", python)
    if not found:
        return False
    least = int(found[2] or 0)
    if abi == "none":
        return least == minor or (found[1] == "py" and least <= minor)
    if abi == "abi3":
        return found[1] == "cp" and least <= minor
    return found[1] == "cp" and least == minor and abi == f"cp3{minor}"


def _tag_fits(tag: str, wanted: str) -> bool:
    """Return True if the tag's libc or system is that of the platform, or an older version."""
    if tag in ("any", wanted):
        return True
    for old, new in _LEGACY.items():
        tag = re.sub(f"^{old}", new, tag)
    has, needs = _VERSIONED.fullmatch(wanted), _VERSIONED.fullmatch(tag)
    if not has or not needs or has[1] != needs[1]:
        return False
    older = (int(needs[2]), int(needs[3])) <= (int(has[2]), int(has[3]))
    return older and has[4] in _UNIVERSAL.get(needs[4], (needs[4],))

"""Make a bundle: recognise what goes in, hash and copy it in one pass, sign."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from linalign_lite.bundle import file_format
from linalign_lite.bundle.file_format import File, Manifest
from linalign_lite.bundle.file_types import examine_model, recognise, require_wheel
from linalign_lite.bundle.hashing_copy import EndsEarlyError, Pump
from linalign_lite.bundle.reading import BundleInfo
from linalign_lite.bundle.signing import SigningKey
from linalign_lite.bundle.wheels import Platform, Wheel, require_fit
from linalign_lite.errors import FormatError, InputError
from linalign_lite.extraction.model_card import CARD_FILE, load_card
from linalign_lite.storage.atomic import PathLike, atomic, open_regular


@dataclass(frozen=True)
class _Source:
    kind: str
    path: str  # in the bundle
    file: Path
    size: int
    sha256: str = ""  # when a model's card says it


def create_bundle(
    out: PathLike,
    things: Sequence[PathLike],
    *,
    key: SigningKey | None,
    wheelhouse: PathLike | None = None,
    platform: Platform | None = None,
    note: str = "",
    progress: Callable[[int], None] | None = None,
) -> BundleInfo:
    """Write a bundle of files and model folders, whole or not at all; the same gives the same.

    things: maps, heads, detectors, public keys, exported model folders. key: None leaves the bundle
    unsigned. wheelhouse: a folder of wheels and nothing else, for ``platform`` (default: this one).
    Memory does not depend on sizes. Raises InputError for anything that is not for a bundle,
    secrets above all, FormatError for what is damaged, MissingExtraError without the extra.
    """
    sources = sorted(
        [s for thing in things for s in _collect(Path(thing))]
        + list(_wheels(wheelhouse, platform or Platform.here()) if wheelhouse else ()),
        key=lambda s: s.path,
    )
    _require_distinct(sources)
    target = (platform or Platform.here()) if wheelhouse else None
    files = tuple(File(s.kind, s.path, file_format.UNSET, s.size) for s in sources)
    manifest = Manifest(files, note, target)
    public = key.public if key else bytes(32)
    start = file_format.HEAD.size + len(manifest.encode()) + file_format.SIGNATURE
    with atomic(out) as f, Pump() as pump:
        f.seek(start)  # digests have one length: the manifest's is known
        digests = [_copy(pump, s, f.write, progress) for s in sources]
        manifest = manifest.with_digests(digests)
        signed = file_format.header(manifest.encode(), public)
        f.seek(0)
        f.write(signed + (key.sign(signed) if key else bytes(file_format.SIGNATURE)))
    return BundleInfo.of(manifest, signed, public)


def total_size(things: Sequence[PathLike], wheelhouse: PathLike | None = None) -> int:
    """Bytes of all files named, for a progress bar; what is not there counts nothing."""
    places = [Path(p) for p in (*things, *([wheelhouse] if wheelhouse else []))]
    files = [f for p in places for f in (p.iterdir() if p.is_dir() else [p])]
    return sum(f.stat().st_size for f in files if f.is_file())


def _collect(path: Path) -> Iterator[_Source]:
    if path.is_dir() and not path.is_symlink():
        yield from _model(path)
        return
    size = _plain_size(path)
    file_format.require_name(path.name, "file name")
    kind = recognise(path)
    yield _Source(kind, f"{file_format.FOLDERS[kind]}/{path.name}", path, size)


def _model(folder: Path) -> Iterator[_Source]:
    name = folder.resolve().name
    file_format.require_name(name, "folder name")
    load_card(folder, verify=False)  # or it is no model at all
    names = {p.name for p in folder.iterdir()}
    sizes = {n: _plain_size(folder / n) for n in sorted(names)}
    digests = examine_model(folder, names, verify=False)  # they are hashed while they are copied
    for n, size in sizes.items():
        yield _Source("model", f"models/{name}/{n}", folder / n, size, digests.get(n, ""))


def _wheels(folder: PathLike, platform: Platform) -> Iterator[_Source]:
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder", expected="one that `pip download` filled")
    found = sorted(folder.iterdir())
    if not found:
        raise InputError(f"{folder} is empty", hint="fill it with `pip wheel -w FOLDER`")
    for path in found:
        size = _plain_size(path)
        require_fit(Wheel.parse(path.name), platform)
        require_wheel(path)
        yield _Source("wheel", f"wheelhouse/{path.name}", path, size)


def _plain_size(path: Path) -> int:
    try:
        status = path.lstat()
    except (OSError, ValueError) as e:
        raise InputError(f"cannot read {path}", got=getattr(e, "strerror", "") or str(e)) from e
    if not stat.S_ISREG(status.st_mode):
        what = "a link" if stat.S_ISLNK(status.st_mode) else "a folder, a pipe or a device"
        raise InputError(f"{path} does not go into a bundle", got=what, expected="a file")
    return status.st_size


def _require_distinct(sources: Sequence[_Source]) -> None:
    for a, b in pairwise(sources):
        if a.path == b.path:
            raise InputError(f"{a.file} and {b.file} would both be {a.path}", hint="rename one")
    if not sources:
        raise InputError("there is nothing to put into a bundle")


def _copy(
    pump: Pump,
    source: _Source,
    write: Callable[[memoryview], object],
    progress: Callable[[int], None] | None,
) -> str:
    with open_regular(source.file) as f:
        try:
            digest = pump.run(f, source.size, str(source.file), write, progress)
            whole = not f.read(1)
        except EndsEarlyError:
            whole = False
    if not whole:
        raise InputError(f"{source.file} changed while it was read", hint="try again")
    if source.sha256 and digest != source.sha256:
        raise FormatError(
            f"{source.file} does not have the digest that its {CARD_FILE} says",
            hint="the folder may be altered; export or copy it again",
        )
    return digest

"""Create bundles: recognise the files, hash and copy them in one pass, sign."""

import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from linalign_lite.bundle import file_format
from linalign_lite.bundle.file_format import File, Manifest
from linalign_lite.bundle.file_types import detect_kind, require_model, require_wheel
from linalign_lite.bundle.hashing_copy import EndsEarlyError, HashingCopy
from linalign_lite.bundle.reading import BundleInfo
from linalign_lite.bundle.wheels import Platform, Wheel, require_fit
from linalign_lite.core.signing import SigningKey
from linalign_lite.errors import FormatError, InputError
from linalign_lite.extraction.model_card import CARD_FILE, load_card
from linalign_lite.storage.atomic import PathLike, atomic, open_regular


@dataclass(frozen=True)
class _Source:
    """A file to copy into a bundle."""

    kind: str
    path: str  # in the bundle
    file: Path
    size: int
    sha256: str = ""  # as stated by a model's card


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
    """Write a bundle of files and model folders, whole or not at all; the bytes are reproducible.

    things: maps, heads, detectors, public keys, exported model folders. key: None leaves the bundle
    unsigned. wheelhouse: a folder of wheels and nothing else, for ``platform`` (default: this one).
    Memory does not depend on sizes. Raises InputError for anything that does not go into a bundle,
    secrets above all, FormatError for damaged files, MissingExtraError without the extra `bundle`.
    """
    target = (platform or Platform.here()) if wheelhouse else None
    sources = [source for thing in things for source in _collect(Path(thing))]
    if wheelhouse and target:
        sources += _wheels(Path(wheelhouse), target)
    sources.sort(key=lambda source: source.path)
    _require_distinct(sources)
    files = tuple(File(s.kind, s.path, file_format.UNKNOWN_DIGEST, s.size) for s in sources)
    # what is written must be what is read
    manifest = file_format.parse_manifest(Manifest(files, note, target).encode(), str(out))
    public = key.public if key else bytes(32)
    start = file_format.HEADER.size + len(manifest.encode()) + file_format.SIGNATURE
    with atomic(out) as f, HashingCopy() as copying:
        f.seek(start)  # digests have a fixed length, so the size of the manifest is known
        digests = [_copy(copying, source, f.write, progress) for source in sources]
        manifest = manifest.with_digests(digests)
        signed = file_format.signed_part(manifest.encode(), public)
        f.seek(0)
        f.write(signed + (key.sign(signed) if key else bytes(file_format.SIGNATURE)))
    return BundleInfo.of(manifest, signed, public)


def total_size(things: Sequence[PathLike], wheelhouse: PathLike | None = None) -> int:
    """Bytes of all files named, for a progress bar; missing files count 0."""
    places = [Path(p) for p in (*things, *([wheelhouse] if wheelhouse else []))]
    files = [f for p in places for f in (p.iterdir() if p.is_dir() else [p])]
    return sum(f.stat().st_size for f in files if f.is_file())


def _collect(path: Path) -> Iterator[_Source]:
    if path.is_dir() and not path.is_symlink():
        yield from _model(path)
        return
    size = _regular_size(path)
    file_format.require_name(path.name, "file name")
    kind = detect_kind(path)
    yield _Source(kind, f"{file_format.FOLDERS[kind]}/{path.name}", path, size)


def _model(folder: Path) -> Iterator[_Source]:
    name = folder.resolve().name
    file_format.require_name(name, "folder name")
    load_card(folder, verify=False)  # raises when the folder is not a model
    sizes = {path.name: _regular_size(path) for path in sorted(folder.iterdir())}
    digests = require_model(folder, set(sizes), verify=False)  # hashed while copied
    for n, size in sizes.items():
        yield _Source("model", f"models/{name}/{n}", folder / n, size, digests.get(n, ""))


def _wheels(folder: Path, platform: Platform) -> Iterator[_Source]:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder", expected="one that `pip download` filled")
    paths = sorted(folder.iterdir())
    if not paths:
        raise InputError(f"{folder} is empty", hint="fill it with `pip wheel -w FOLDER`")
    for path in paths:
        size = _regular_size(path)
        require_fit(Wheel.parse(path.name), platform)
        require_wheel(path)
        yield _Source("wheel", f"wheelhouse/{path.name}", path, size)


def _regular_size(path: Path) -> int:
    """Bytes of an ordinary file. Raises InputError for anything else, links too."""
    try:
        status = path.lstat()
    except (OSError, ValueError) as e:
        raise InputError(f"cannot read {path}", got=getattr(e, "strerror", "") or str(e)) from e
    if not stat.S_ISREG(status.st_mode):
        found = "a link" if stat.S_ISLNK(status.st_mode) else "a folder, a pipe or a device"
        raise InputError(f"{path} does not go into a bundle", got=found, expected="a file")
    return status.st_size


def _require_distinct(sources: Sequence[_Source]) -> None:
    for a, b in pairwise(sources):
        if a.path == b.path:
            raise InputError(f"{a.file} and {b.file} would both be {a.path}", hint="rename one")
    if not sources:
        raise InputError("there is nothing to put into a bundle")


def _copy(
    copying: HashingCopy,
    source: _Source,
    write: Callable[[memoryview], object],
    progress: Callable[[int], None] | None,
) -> str:
    """Copy a file; returns its SHA-256. Raises InputError when its size changed."""
    with open_regular(source.file) as f:
        try:
            digest = copying.run(f, source.size, str(source.file), write, progress)
            unchanged = not f.read(1)
        except EndsEarlyError:
            unchanged = False
    if not unchanged:
        raise InputError(f"{source.file} changed while it was read", hint="try again")
    if source.sha256 and digest != source.sha256:
        raise FormatError(
            f"{source.file} does not have the digest in its {CARD_FILE}",
            hint="the folder may be altered; export or copy it again",
        )
    return digest

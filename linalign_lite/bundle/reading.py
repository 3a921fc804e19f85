"""Check a bundle, and install it. Nothing is written before all of it was checked."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from linalign_lite.bundle import file_format
from linalign_lite.bundle.file_format import File, Manifest
from linalign_lite.bundle.file_types import examine, examine_model, require_start
from linalign_lite.bundle.hashing_copy import EndsEarlyError, Pump
from linalign_lite.bundle.signing import VerifyingKey
from linalign_lite.encrypt.wire import MAGIC
from linalign_lite.errors import FormatError, InputError, MissingExtraError, SignatureError
from linalign_lite.storage.atomic import PathLike, check_free, open_regular, whole_folder

SUMS, REQUIREMENTS = "SHA256SUMS", "wheelhouse/requirements.txt"
Progress = Callable[[int], None]
_HINT = "the file may be damaged or altered; get it again"


@dataclass(frozen=True)
class BundleInfo:
    """What a bundle holds. ``digest``: SHA-256 of its header and manifest, which fix every byte."""

    manifest: Manifest
    digest: str
    signer: str  # fingerprint, "" when unsigned

    @classmethod
    def of(cls, manifest: Manifest, signed: bytes, public: bytes) -> BundleInfo:
        """From a manifest that was read, the bytes signed, and the public key in the file."""
        signer = VerifyingKey(public).fingerprint if any(public) else ""
        return cls(manifest, hashlib.sha256(signed).hexdigest(), signer)

    def as_dict(self) -> dict[str, Any]:
        """What `bundle verify --json` prints."""
        m = self.manifest
        return {
            "digest": self.digest,
            "signer": self.signer,
            "note": m.note,
            "platform": m.platform and {"python": m.platform.python, "tag": m.platform.tag},
            "bytes": m.size,
            "files": [vars(f) for f in m.files],
        }


def verify_bundle(
    path: PathLike,
    *,
    keys: Sequence[VerifyingKey] = (),
    unsigned: bool = False,
    deep: bool = False,
    progress: Progress | None = None,
) -> BundleInfo:
    """Check who signed a bundle, then every byte of it. docs/FORMAT.md, section 7, says in order.

    keys: whose signature counts. unsigned: take a bundle that nobody signed, and no other.
    deep: read every file as its kind too, in a temporary folder. Memory does not depend on sizes.
    Raises SignatureError when it is not signed by one of ``keys``, FormatError for anything else
    that is wrong with it, MissingExtraError without the extra `bundle`.
    """
    with _opened(path, keys, unsigned) as bundle:
        bundle.check(progress)
        if deep:
            with tempfile.TemporaryDirectory(prefix="linalign-") as folder:
                bundle.unpack(Path(folder))
        return bundle.info


def install_bundle(
    path: PathLike,
    out: PathLike,
    *,
    keys: Sequence[VerifyingKey] = (),
    unsigned: bool = False,
    progress: Progress | None = None,
) -> BundleInfo:
    """Check a bundle as `verify_bundle` does with ``deep``, and leave its files in ``out``.

    The folder is made whole or not at all; OutputExistsError when it is there and not empty.
    """
    out = Path(out)
    check_free(out)
    with _opened(path, keys, unsigned) as bundle:
        bundle.check(progress)
        _require_space(out, bundle.info.manifest.size)
        with whole_folder(out) as folder:
            folder.chmod(0o755)
            bundle.unpack(folder)
            _write_lists(folder, bundle.info.manifest)
        return bundle.info


def look(path: PathLike) -> tuple[BundleInfo, str]:
    """What a bundle says, every byte checked, and what of its signature: not whose the key is.

    Raises FormatError and SignatureError as `verify_bundle` does. Without the extra `bundle` the
    signature is left alone, and that is said.
    """
    with open_regular(path) as f:
        bundle = _read_start(f, str(path))
        signature = "none"
        if bundle.public:
            signature = "of the key in it, which may be anybody's"
            try:
                bundle.require_signature(VerifyingKey(bundle.public))
            except MissingExtraError:
                signature = "not checked: that needs the extra 'bundle'"
        bundle.check()
        return bundle.info, signature


@contextlib.contextmanager
def _opened(path: PathLike, keys: Sequence[VerifyingKey], unsigned: bool) -> Iterator[_Opened]:
    if unsigned == bool(keys):
        raise InputError(
            "it is not said whose signature counts",
            got="keys, and that there are none" if keys else "nothing",
            expected="the signer's public key (--key), or that it is not signed (--unsigned)",
        )
    with open_regular(path) as f:
        yield _read_start(f, str(path), keys, unsigned=unsigned)


@dataclass(frozen=True)
class _Opened:
    """A bundle whose header, signature and manifest were checked, and its size."""

    file: IO[bytes]
    name: str
    info: BundleInfo
    public: bytes  # b"" when unsigned
    signed: bytes
    signature: bytes

    def require_signature(self, key: VerifyingKey) -> None:
        _require_signature(self.name, key, self.signature, self.signed)

    def check(self, progress: Progress | None = None) -> None:
        """Every file against its digest, and that it begins as its kind does."""
        with Pump() as pump:
            for file in self._each():
                self._pumped(pump, file, progress=progress)

    def unpack(self, folder: Path) -> None:
        """Write every file below ``folder``, checked again, and read each as its kind."""
        models: dict[str, set[str]] = {}
        with Pump() as pump:
            for file in self._each():
                path = folder.joinpath(*file.path.split("/"))
                for parent in reversed(path.relative_to(folder).parents):
                    _make_folder(folder / parent)
                with _new_file(path) as out:
                    self._pumped(pump, file, out.write)
                if file.kind == "model":
                    models.setdefault(str(path.parent), set()).add(path.name)
        with _without(folder, self.name):
            for file in self.info.manifest.files:
                examine(folder / file.path, file.kind)
            for model, names in models.items():
                examine_model(Path(model), names)

    def _each(self) -> Iterator[File]:
        at = len(self.signed) + file_format.SIGNATURE
        for file in self.info.manifest.files:
            self.file.seek(at)
            require_start(file, self.file.read(min(128, file.size)), self.name)
            self.file.seek(at)
            yield file
            at += file.size

    def _pumped(
        self,
        pump: Pump,
        file: File,
        write: Callable[[memoryview], Any] | None = None,
        progress: Progress | None = None,
    ) -> None:
        name = f"{self.name}: {file.path}"
        if pump.run(self.file, file.size, name, write, progress) != file.sha256:
            raise FormatError(f"{name} does not have the digest that the manifest says", hint=_HINT)


def _read_start(
    f: IO[bytes], name: str, keys: Sequence[VerifyingKey] = (), *, unsigned: bool = False
) -> _Opened:
    """Header, signature, manifest and size, in this order. No keys, not unsigned: any signer."""
    size = os.fstat(f.fileno()).st_size
    head = f.read(file_format.HEAD.size)
    if len(head) < file_format.HEAD.size or not head.startswith(MAGIC):
        raise FormatError(f"{name} is not a bundle")
    _, version, kind, length, public = file_format.HEAD.unpack(head)
    if kind != file_format.KIND:
        raise FormatError(
            f"{name} is another kind of file", got=f"kind {kind}", expected="a bundle"
        )
    if version != file_format.VERSION:
        raise FormatError(
            f"{name} has a version that this library does not read",
            got=str(version),
            expected=str(file_format.VERSION),
            hint="a newer linalign-lite may read it",
        )
    start = file_format.HEAD.size + length + file_format.SIGNATURE
    if not 1 <= length <= file_format.MAX_MANIFEST or start > size:
        raise FormatError(f"{name} states a manifest that cannot be there", got=f"{length} bytes")
    key = _trusted(name, public, keys, unsigned=unsigned)
    signed = head + f.read(length)
    signature = f.read(file_format.SIGNATURE)
    if len(signed) + len(signature) != start:
        raise EndsEarlyError(f"{name} ends early", hint=_HINT)
    if key:
        _require_signature(name, key, signature, signed)
    elif not any(public) and any(signature):
        raise SignatureError(f"{name} has a signature and no key", hint=_HINT)
    manifest = file_format.parse(signed[file_format.HEAD.size :], name)
    if size != start + manifest.size:
        problem = "ends early" if size < start + manifest.size else "has more than its files"
        raise FormatError(
            f"{name} {problem}",
            got=f"{size} bytes",
            expected=str(start + manifest.size),
            hint=_HINT,
        )
    info = BundleInfo.of(manifest, signed, public)
    return _Opened(f, name, info, public if any(public) else b"", signed, signature)


def _trusted(
    name: str, public: bytes, keys: Sequence[VerifyingKey], *, unsigned: bool
) -> VerifyingKey | None:
    """The one of ``keys`` that a bundle names; None when none is asked for."""
    if unsigned and any(public):
        raise SignatureError(f"{name} is signed", hint="name the signer's public key: --key")
    if unsigned or not keys:
        return None
    if not any(public):
        raise SignatureError(
            f"{name} is not signed", hint="get a signed one; --unsigned takes it as it is"
        )
    for key in keys:
        if key.public == public:
            return key
    raise SignatureError(
        f"{name} is signed by somebody else",
        got=f"a key with the fingerprint {VerifyingKey(public).fingerprint[:16]}",
        expected=" or ".join(k.fingerprint[:16] for k in keys[:4]),
    )


def _require_signature(name: str, key: VerifyingKey, signature: bytes, signed: bytes) -> None:
    if not key.accepts(signature, signed):
        raise SignatureError(f"{name} does not have a right signature", hint=_HINT)


def _require_space(out: Path, size: int) -> None:
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(out.absolute().parent).free
        if free < size:
            raise InputError(f"there is no room for {out}", got=f"{free} bytes", expected=str(size))


def _make_folder(path: Path) -> None:
    if not path.is_dir():
        path.mkdir()
        path.chmod(0o755)


def _new_file(path: Path) -> IO[bytes]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags, 0o644), "wb")
    path.chmod(0o644)  # whatever the umask
    return file


@contextlib.contextmanager
def _without(folder: Path, name: str) -> Iterator[None]:
    """Messages name the bundle, not the temporary folder that its files lie in."""
    try:
        yield
    except InputError as e:
        raise FormatError(f"{name}: {str(e).replace(f'{folder}{os.sep}', '')}") from e


def _write_lists(folder: Path, manifest: Manifest) -> None:
    lists = {SUMS: "".join(f"{f.sha256}  {f.path}\n" for f in manifest.files)}
    wheels = "".join(
        f"{w.project}=={w.version} --hash=sha256:{f.sha256}\n" for f, w in manifest.wheels()
    )
    if wheels:
        lists[REQUIREMENTS] = wheels
    for name, text in lists.items():
        with _new_file(folder / name) as out:
            out.write(text.encode("ascii"))

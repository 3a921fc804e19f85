"""Verify and install bundles. Nothing is written before everything was checked."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from linalign_lite.bundle import file_format
from linalign_lite.bundle.file_format import File, Manifest
from linalign_lite.bundle.file_types import START, require_kind, require_magic, require_model
from linalign_lite.bundle.hashing_copy import EndsEarlyError, HashingCopy
from linalign_lite.core.signing import VerifyingKey
from linalign_lite.core.text_tables import column_lines
from linalign_lite.errors import FormatError, InputError, MissingExtraError, SignatureError
from linalign_lite.storage import MAGIC
from linalign_lite.storage.atomic import PathLike, check_free, open_regular, whole_folder

SUMS, REQUIREMENTS = "SHA256SUMS", "wheelhouse/requirements.txt"
Progress = Callable[[int], None]
_HINT = "the file may be damaged or altered; get it again"


@dataclass(frozen=True)
class BundleInfo:
    """Contents and signer of a bundle.

    ``digest``: SHA-256 of its header and manifest, which determine every byte.
    """

    manifest: Manifest
    digest: str
    signer: str  # fingerprint, "" when unsigned

    @classmethod
    def of(cls, manifest: Manifest, signed: bytes, public: bytes) -> BundleInfo:
        """From a manifest, the bytes that are signed, and the public key in the file."""
        signer = VerifyingKey(public).fingerprint if any(public) else ""
        return cls(manifest, hashlib.sha256(signed).hexdigest(), signer)

    def as_dict(self) -> dict[str, Any]:
        """The fields that `bundle verify --json` prints."""
        return {
            "digest": self.digest,
            "signer": self.signer,
            "note": self.manifest.note,
            "platform": self.manifest.platform and asdict(self.manifest.platform),
            "bytes": self.manifest.size,
            "files": [asdict(file) for file in self.manifest.files],
        }

    def lines(self) -> list[str]:
        """Content of the bundle for printing: a summary, then one line per file."""
        m = self.manifest
        signed = f"signed by {self.signer[:16]}" if self.signer else "not signed"
        lines = [f"{len(m.files)} files, {m.size:,} bytes, {signed}, digest {self.digest[:16]}"]
        lines += [m.note] if m.note else []
        lines += [f"wheels for Python {m.platform.python}, {m.platform.tag}"] if m.platform else []
        files = [(f.path, f.kind, f"{f.size:,}") for f in m.files]
        return [*lines, *column_lines([("file", "kind", "bytes"), *files])]


def verify_bundle(
    path: PathLike,
    *,
    keys: Sequence[VerifyingKey] = (),
    unsigned: bool = False,
    deep: bool = False,
    progress: Progress | None = None,
) -> BundleInfo:
    """Verify a bundle's signature, then every byte, in the order of docs/FORMAT.md, section 7.

    keys: the signers to accept. unsigned: accept a bundle without a signature, and no other.
    deep: read every file as its kind too, in a temporary folder. Memory does not depend on sizes.
    Raises SignatureError when none of ``keys`` signed it, FormatError for any other fault,
    InputError for both or neither of keys and unsigned, MissingExtraError without the extra
    `bundle`.
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
    """Verify a bundle as `verify_bundle` does with ``deep``, and write its files to ``out``.

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


def inspect_bundle(path: PathLike) -> tuple[BundleInfo, str]:
    """Check every byte of a bundle by any signer; returns its contents and a line on the signature.

    Raises FormatError and SignatureError as `verify_bundle` does. Without the extra `bundle` the
    signature is not checked, which the line states.
    """
    with open_regular(path) as f:
        bundle = _read_start(f, str(path))
        signature = "none"
        if bundle.public:
            signature = "of the key in it, which may be anybody's"
            try:
                key = VerifyingKey(bundle.public)
                _require_signature(bundle.name, key, bundle.signature, bundle.signed)
            except MissingExtraError:
                signature = "not checked: that needs the extra 'bundle'"
        bundle.check()
        return bundle.info, signature


@contextlib.contextmanager
def _opened(path: PathLike, keys: Sequence[VerifyingKey], unsigned: bool) -> Iterator[_Opened]:
    if unsigned == bool(keys):
        raise InputError(
            "pass either keys or unsigned=True",
            got="both" if keys else "neither",
            expected="the signer's public key (--key), or --unsigned",
        )
    with open_regular(path) as f:
        yield _read_start(f, str(path), keys, unsigned=unsigned)


@dataclass(frozen=True)
class _Opened:
    """An open bundle whose size, header, signature and manifest were checked."""

    file: IO[bytes]
    name: str
    info: BundleInfo
    public: bytes  # b"" when unsigned
    signed: bytes
    signature: bytes

    def check(self, progress: Progress | None = None) -> None:
        """Check the beginning and the digest of every file."""
        with HashingCopy() as copying:
            for file in self._each():
                self._copy(copying, file, progress=progress)

    def unpack(self, folder: Path) -> None:
        """Write every file below ``folder``, checked again, and read each as its kind."""
        models: dict[Path, set[str]] = {}
        with HashingCopy() as copying:
            for file in self._each():
                path = folder.joinpath(*file.path.split("/"))
                for parent in reversed(path.relative_to(folder).parents):
                    if not (folder / parent).is_dir():
                        (folder / parent).mkdir()
                        (folder / parent).chmod(0o755)
                with _new_file(path) as out:
                    self._copy(copying, file, out.write)
                if file.kind == "model":
                    models.setdefault(path.parent, set()).add(path.name)
        try:
            for file in self.info.manifest.files:
                require_kind(folder / file.path, file.kind)
            for model, names in models.items():
                require_model(model, names)
        except InputError as e:
            e.rename(f"{folder}{os.sep}", "")  # messages name the bundle, not a temporary folder
            raise FormatError(f"{self.name}: {e}") from e

    def _each(self) -> Iterator[File]:
        """The files in order, with the bundle at the first byte of each."""
        at = len(self.signed) + file_format.SIGNATURE
        for file in self.info.manifest.files:
            self.file.seek(at)
            require_magic(file, self.file.read(min(START, file.size)), self.name)
            self.file.seek(at)
            yield file
            at += file.size

    def _copy(
        self,
        copying: HashingCopy,
        file: File,
        write: Callable[[memoryview], Any] | None = None,
        progress: Progress | None = None,
    ) -> None:
        name = f"{self.name}: {file.path}"
        if copying.run(self.file, file.size, name, write, progress) != file.sha256:
            raise FormatError(f"{name} does not have the digest in the manifest", hint=_HINT)


def _read_start(
    f: IO[bytes], name: str, keys: Sequence[VerifyingKey] = (), *, unsigned: bool = False
) -> _Opened:
    """Check header, signature, manifest and size, in this order.

    Without keys and without ``unsigned``, signatures are not checked.
    """
    size = os.fstat(f.fileno()).st_size
    header = f.read(file_format.HEADER.size)
    if len(header) < file_format.HEADER.size or not header.startswith(MAGIC):
        raise FormatError(f"{name} is not a bundle")
    _, version, kind, length, public = file_format.HEADER.unpack(header)
    if kind != file_format.KIND:
        raise FormatError(f"{name} is another kind of file", got=f"kind {kind}", expected="bundle")
    if version != file_format.VERSION:
        raise FormatError(
            f"{name} has a version that this library does not read",
            got=str(version),
            expected=str(file_format.VERSION),
            hint="a newer linalign-lite may read it",
        )
    start = file_format.HEADER.size + length + file_format.SIGNATURE
    if not 1 <= length <= file_format.MAX_MANIFEST or start > size:
        raise FormatError(f"{name} states an impossible manifest size", got=f"{length} bytes")
    key = _trusted(name, public, keys, unsigned=unsigned)
    raw = f.read(length)
    signature = f.read(file_format.SIGNATURE)
    if len(raw) + len(signature) != length + file_format.SIGNATURE:
        raise EndsEarlyError(f"{name} ends early", hint=_HINT)
    if key:
        _require_signature(name, key, signature, header + raw)
    elif not any(public) and any(signature):
        raise SignatureError(f"{name} has a signature and no key", hint=_HINT)
    manifest = file_format.parse_manifest(raw, name)
    if size != start + manifest.size:
        problem = "ends early" if size < start + manifest.size else "has more than its files"
        expected = str(start + manifest.size)
        raise FormatError(f"{name} {problem}", got=f"{size} bytes", expected=expected, hint=_HINT)
    info = BundleInfo.of(manifest, header + raw, public)
    return _Opened(f, name, info, public if any(public) else b"", header + raw, signature)


def _trusted(
    name: str, public: bytes, keys: Sequence[VerifyingKey], *, unsigned: bool
) -> VerifyingKey | None:
    """The one of ``keys`` that is the bundle's; None when no signature is to be checked."""
    if unsigned and any(public):
        raise SignatureError(f"{name} is signed", hint="name the signer's public key: --key")
    if unsigned or not keys:
        return None
    if not any(public):
        raise SignatureError(f"{name} is not signed", hint="get a signed one, or use --unsigned")
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
        raise SignatureError(f"{name} does not have a valid signature", hint=_HINT)


def _require_space(out: Path, size: int) -> None:
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(out.absolute().parent).free
        if free < size:
            problem = f"not enough disk space for {out}"
            raise InputError(problem, got=f"{free} bytes", expected=str(size))


def _new_file(path: Path) -> IO[bytes]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags, 0o644), "wb")
    path.chmod(0o644)  # for any umask
    return file


def _write_lists(folder: Path, manifest: Manifest) -> None:
    """Write SHA256SUMS, and for wheels the requirements file that pip installs them by."""
    sums = (f"{f.sha256}  {f.path}\n" for f in manifest.files)
    wheels = (f"{w.project}=={w.version} --hash=sha256:{f.sha256}\n" for f, w in manifest.wheels())
    for name, text in ((SUMS, "".join(sums)), (REQUIREMENTS, "".join(wheels))):
        if text:
            with _new_file(folder / name) as out:
                out.write(text.encode("ascii"))

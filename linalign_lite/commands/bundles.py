"""bundle keygen, create, verify, install: one signed file for a machine without a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from linalign_lite.commands.console import Console, in_folder, make_key_folder, require_output
from linalign_lite.commands.options import AsJson, Quiet
from linalign_lite.errors import InputError
from linalign_lite.storage.atomic import check_free

if TYPE_CHECKING:
    from linalign_lite.bundle.reading import BundleInfo
    from linalign_lite.core.signing import VerifyingKey

SECRET, PUBLIC = "signing.key", "signing.pub"

app = typer.Typer(
    name="bundle",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Pack files as one signed bundle; verify and install it.",
)

Keys = Annotated[list[Path] | None, Option("--key", help="A trusted signing.pub; may be repeated.")]
Unsigned = Annotated[bool, Option("--unsigned", help="Accept an unsigned bundle and no other.")]
BundleFile = Annotated[Path, Argument(metavar="BUNDLE", help="The bundle.")]


@app.command()
def keygen(
    folder: Annotated[Path, Argument(help="Folder for the two keys; made if needed.")],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make a key pair to sign bundles with.

    signing.key has mode 0600 and stays with you. Send signing.pub once, through a channel that
    you trust, to the recipients of your bundles, and compare the fingerprint with them. Neither
    file is ever overwritten. A provider's budget and logs name your account by the first digits of
    the public key in hexadecimal, which are printed, too.

    \b
    Example:
      linalign-lite bundle keygen signing
    """
    from linalign_lite.core.signing import SigningKey

    console = Console(as_json, quiet)
    key = SigningKey.generate()
    secret, public = make_key_folder(folder, SECRET, PUBLIC)
    key.save(secret)
    key.verifying.save(public)
    console.note(f"{secret} stays with you; {public} goes to your recipients")
    fingerprint, account = key.verifying.fingerprint, key.public.hex()
    data = {"secret": str(secret), "public": str(public), "fingerprint": fingerprint}
    lines = [f"fingerprint {fingerprint}", f"account {account[:16]}"]
    console.result({**data, "account": account}, lines)


@app.command()
def create(
    out: Annotated[Path, Argument(help="The bundle to write (.bundle).")],
    things: Annotated[
        list[Path] | None,
        Argument(help="Maps, heads, detectors, public keys, exported model folders."),
    ] = None,
    key: Annotated[Path | None, Option("--key", help="Your signing.key, or its folder.")] = None,
    unsigned: Annotated[bool, Option("--unsigned", help="Do not sign it.")] = False,
    wheelhouse: Annotated[
        Path | None, Option(help="A folder of wheels (`pip wheel -w FOLDER`) to include.")
    ] = None,
    platform: Annotated[
        str | None, Option(help="Platform of the wheels, such as manylinux_2_28_x86_64.")
    ] = None,
    python: Annotated[
        str | None, Option(help="Python version of the wheels, such as 3.11 (default: this one).")
    ] = None,
    note: Annotated[str, Option(help="A line for the recipient; it is signed too.")] = "",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Pack files into one signed bundle.

    The kind of each file is found from its content. Secrets, hidden states, queries, responses,
    links and files that are not of linalign-lite are refused. Wheels are copied unchanged; nothing
    is downloaded. The same files give the same bytes.

    \b
    Examples:
      linalign-lite bundle create out.bundle model b-to-a.map.npz topics.head.npz --key signing
      pip wheel 'linalign-lite[bundle]' -w wheels
      linalign-lite bundle create out.bundle model --key signing --wheelhouse wheels
    """
    from linalign_lite.bundle.wheels import Platform
    from linalign_lite.bundle.writing import create_bundle, total_size
    from linalign_lite.core.signing import SigningKey

    console = Console(as_json, quiet)
    if unsigned == (key is not None):
        raise InputError("no signer, or two", expected="either --key SIGNING or --unsigned")
    given = things or []
    require_output(out, *given)
    wanted = None
    if wheelhouse is not None:
        here = Platform.here()
        wanted = Platform(python or here.python, platform or here.tag)
    elif platform or python:
        raise InputError("--platform and --python need wheels", hint="add --wheelhouse")
    signer = SigningKey.load(in_folder(key, SECRET)) if key else None
    with console.progress("packing", total_size(given, wheelhouse)) as tally:
        info = create_bundle(
            out, given, key=signer, wheelhouse=wheelhouse, platform=wanted, note=note,
            progress=tally,
        )  # fmt: skip
    console.result({**info.as_dict(), "out": str(out)}, _lines(out, info))


@app.command()
def verify(
    bundle: BundleFile,
    key: Keys = None,
    unsigned: Unsigned = False,
    deep: Annotated[bool, Option("--deep", help="Also read every file as its kind.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Check a bundle's signature and digests, and list its files.

    Writes nothing.

    \b
    Example:
      linalign-lite bundle verify delivery.bundle --key signing.pub
    """
    from linalign_lite.bundle.reading import verify_bundle

    console = Console(as_json, quiet)
    with console.progress("checking", _size(bundle)) as tally:
        info = verify_bundle(bundle, keys=_keys(key), unsigned=unsigned, deep=deep, progress=tally)
    console.result(info.as_dict(), _lines(bundle, info))


@app.command()
def install(
    bundle: BundleFile,
    out: Annotated[Path, Argument(help="The folder to make.")],
    key: Keys = None,
    unsigned: Unsigned = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Verify a bundle, then unpack its files into a folder.

    Never overwrites. Wheels are unpacked into wheelhouse/; the pip command that installs them with
    their digests and without a network is printed, not run.

    \b
    Example:
      linalign-lite bundle install delivery.bundle delivery --key signing.pub
    """
    from linalign_lite.bundle.reading import REQUIREMENTS, install_bundle

    console = Console(as_json, quiet)
    check_free(out)
    with console.progress("checking", _size(bundle)) as tally:
        info = install_bundle(bundle, out, keys=_keys(key), unsigned=unsigned, progress=tally)
    data, lines = {**info.as_dict(), "out": str(out), "pip": ""}, _lines(out, info)
    if info.manifest.platform is not None:
        data["pip"] = (
            f"pip install --no-index --find-links {out / 'wheelhouse'} --require-hashes"
            f" -r {out / REQUIREMENTS}"
        )
        lines.append(data["pip"])
    console.result(data, lines)


def _lines(path: Path, info: BundleInfo) -> list[str]:
    summary, *files = info.lines()
    return [f"{path}: {summary}", *files]


def _keys(paths: list[Path] | None) -> list[VerifyingKey]:
    from linalign_lite.core.signing import VerifyingKey

    return [VerifyingKey.load(in_folder(path, PUBLIC)) for path in paths or []]


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0

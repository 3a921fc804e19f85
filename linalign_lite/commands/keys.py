"""keygen: the keys of private queries, and the options that name them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from linalign_lite.commands.console import Console, in_folder, make_key_folder
from linalign_lite.commands.options import AsJson, Quiet
from linalign_lite.core.choices import Profile
from linalign_lite.errors import InputError

if TYPE_CHECKING:
    from linalign_lite.core.signing import SigningKey
    from linalign_lite.encrypt.keys import PublicKey

SECRET, PUBLIC, SIGNING = "secret.key", "public.key", "signing.key"
PROOF = ".proof"  # of public.key: public.proof

Key = Annotated[Path, Option("--key", help="The secret key, or its folder.")]
Account = Annotated[
    Path | None, Option(help="Your signing.key (bundle keygen), or its folder: signs queries.")
]


def keygen(
    folder: Annotated[Path, Argument(help="Folder for the two keys; made if needed.")],
    profile: Annotated[
        Profile, Option(help="trusted: smaller and faster, but responses do not hide the head.")
    ] = Profile.private,
    account: Account = None,
    prove: Annotated[
        bool, Option("--prove", help="Prove that the key is well formed, for queries in bulk.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make a client's key pair for encrypted queries.

    secret.key has mode 0600; it encrypts queries and decrypts scores, and stays with the client.
    public.key goes to the provider, who needs it to hide its head in the responses. Neither is ever
    overwritten. With --account the key belongs to the account of that signing key, which a
    provider with a budget asks for. With --prove there is public.proof, too, 0.4 MB, made in some
    seconds: a provider that has it beside public.key lets thousands of states share ciphertexts,
    which makes bulk queries many times smaller.

    \b
    Examples:
      linalign-lite keygen keys
      linalign-lite bundle keygen signing
      linalign-lite keygen keys --account signing
      linalign-lite keygen keys --prove
    """
    from linalign_lite.encrypt.keys import keygen as make_keys
    from linalign_lite.encrypt.parameters import by_name

    console = Console(as_json, quiet)
    secret_file, public_file = make_key_folder(folder, SECRET, PUBLIC)
    secret, public = make_keys(by_name(profile.value), load_account(account))
    if prove:
        from linalign_lite.encrypt.key_proof import proven, save_proof

        console.note("proving that the key is well formed")
        public = proven(secret, public)
    secret.save(secret_file)
    public.save(public_file)
    if prove:
        save_proof(public_file.with_suffix(PROOF), public)
    sent = f"{public_file} and its proof go" if prove else f"{public_file} goes"
    console.note(f"{secret_file} stays with you; {sent} to the provider")
    digest = public.digest.hex()
    data = {"secret": str(secret_file), "public": str(public_file)}
    owner = public.account.hex()
    named = f", account {owner[:16]}" if owner else ""
    data |= {"key": digest, "profile": profile.value}
    console.result({**data, "account": owner or None}, [f"key {digest[:16]}{named}"])


def load_account(path: Path | None) -> SigningKey | None:
    from linalign_lite.core.signing import SigningKey

    return None if path is None else SigningKey.load(in_folder(path, SIGNING))


def load_public(paths: list[Path]) -> list[PublicKey]:
    """Load the public keys in these files and folders, with the proofs beside them."""
    from linalign_lite.encrypt.key_proof import load_proof
    from linalign_lite.encrypt.keys import PublicKey

    files: list[Path] = []
    for path in paths:
        found = [path]
        if path.is_dir():
            found = [p for p in sorted(path.rglob("*.key")) if p.name not in (SECRET, SIGNING)]
        if not found:
            raise InputError(f"there is no public key in {path}", expected=f"{PUBLIC} files")
        files += found
    keys = []
    for path in files:
        key, proof = PublicKey.load(path), path.with_suffix(PROOF)
        keys.append(load_proof(proof, key) if proof.exists() else key)
    return keys

"""fit-private offer, answer, finish: fit a map without showing the states."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from linalign_lite.commands import options as shared
from linalign_lite.commands.console import Console, Interrupted, require_output
from linalign_lite.commands.keys import Account, load_account, load_public
from linalign_lite.commands.service import tls_options
from linalign_lite.core.choices import MomentsMethod
from linalign_lite.core.text_tables import pair_lines
from linalign_lite.errors import InputError
from linalign_lite.storage.places import delivered, place

if TYPE_CHECKING:
    from linalign_lite.encrypt.fitting.sources import TextStates

KEPT = ".kept.npz"
NEXT = "another offer, of more texts or of texts nearer to yours; `decrypt --texts` decides"
_PATIENCE = 900.0  # seconds for one answer: a service works on it, and others may be before it

app = typer.Typer(
    name="fit-private",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Fit a map without showing the states.",
)

DryRun = Annotated[bool, Option("--dry-run", help="Predict bytes, time and memory; do nothing.")]


@app.command()
def offer(
    states: Annotated[str, Argument(help="Your states of the texts: file, folder or URL.")],
    out: Annotated[Path, Argument(help="The offer to write (.offer), for the provider.")],
    kept: Annotated[
        Path | None,
        Option("--kept", help="File to keep for finish; never replaced; default: of OUT."),
    ] = None,
    account: Account = None,
    folds: Annotated[
        int | None, Option(help="Folds of the cross-validation; default: up to 5.", min=2, max=64)
    ] = None,
    seed: shared.Seed = 0,
    columns: Annotated[
        int | None, Option(help="Offer only the directions of largest variance.", min=1)
    ] = None,
    target_dim: Annotated[
        int | None, Option(help="The provider's dimensions, for a prediction.", min=1)
    ] = None,
    dry_run: DryRun = False,
    as_json: shared.AsJson = False,
    quiet: shared.Quiet = False,
) -> None:
    """Encrypt your states of the shared texts.

    OUT goes to the provider, with the public key and its proof that are written beside it
    (mine.public.key, mine.public.proof). The key is made for this offer alone. The provider learns
    the number of texts, folds and columns and the digest of the texts. The kept file stays with
    you: it holds the secret key and sums over your states. Every fold needs 4 texts for each
    column, and 4 more.

    \b
    Examples:
      linalign-lite fit-private offer mine.states.npz mine.offer
      linalign-lite fit-private offer mine-states mine.offer --account signing --columns 200
      linalign-lite fit-private offer mine-states mine.offer --dry-run --target-dim 640
    """
    from linalign_lite.encrypt.fitting.cost import predict_fit
    from linalign_lite.encrypt.fitting.offer import beside, key_files, offer_fit, plan_shape
    from linalign_lite.encrypt.parameters import PRIVATE

    console = Console(as_json, quiet)
    kept = kept or beside(out, KEPT)
    require_output(out, states, kept)
    require_output(kept, states)
    source = _read(states)
    options: dict[str, Any] = {"folds": folds, "seed": seed, "columns": columns}
    shape = plan_shape(source, PRIVATE.degree, **options)
    cost = predict_fit(shape, target_dim or source.space.dim)
    if dry_run:
        console.result(cost.as_dict(), pair_lines(cost.rows()))
        return
    signer = load_account(account)
    console.note("making a key for this offer alone, with its proof")
    with console.progress("encrypting", source.n) as tally:
        info = offer_fit(out, kept, source.states, account=signer, progress=tally, **options)
    size, (public, proof) = out.stat().st_size, key_files(out)
    files = {"out": out, "public": public, "proof": proof, "kept": kept}
    data: dict[str, Any] = {name: str(file) for name, file in files.items()}
    data |= {"bytes": size, "texts": info.n, "folds": info.folds, "columns": info.columns}
    data["text_digest"] = info.text_digest
    rows = [
        ("offer", f"{out}, {size / 1e6:.1f} MB, for the provider"),
        ("key", f"{public} and {proof.name}, for the provider"),
        ("kept", f"{kept} stays with you: it holds the secret key"),
        ("texts", f"{info.n} in {info.folds} folds"),
        ("columns", f"{info.columns} of {source.space.dim} dimensions"),
    ]
    if target_dim:
        rows.append(("answer", f"about {cost.answer_bytes / 1e6:.1f} MB"))
    console.result({**data, "predicted": cost.as_dict()}, pair_lines(rows))


@app.command()
def answer(
    offer_at: Annotated[Path, Argument(metavar="offer", help="A client's offer.")],
    states: Annotated[str, Argument(help="Your states of the same texts: file, folder or URL.")],
    out: Annotated[Path, Argument(help="The answer to write (.answer), for the client.")],
    public: Annotated[
        list[Path] | None,
        Option(help="Public key or folder, with its proof; repeatable; default: beside OFFER."),
    ] = None,
    accounts: Annotated[
        list[Path] | None,
        Option("--accounts", help="signing.pub of a client that may ask; repeatable."),
    ] = None,
    budget: Annotated[str | None, Option(help="Count what is told per account here.")] = None,
    limit: Annotated[
        int | None, Option(help="With --budget: most states per account.", min=1)
    ] = None,
    checkpoint: Annotated[
        Path | None, Option(help="Save progress in files of this name, and resume from them.")
    ] = None,
    coarse: Annotated[
        bool, Option("--coarse", help="Allow dimensions of few different values.")
    ] = False,
    dry_run: DryRun = False,
    as_json: shared.AsJson = False,
    quiet: shared.Quiet = False,
) -> None:
    """Multiply a client's offer by your states.

    The client learns the map, and so your states as far as its own predict them, and of the rest at
    most a quarter on average; a dishonest client chooses what it learns (docs/PRIVATE_FIT.md).
    Always name a --budget: an offer of m columns in k folds counts as (m + 2)·k states. And name
    the --accounts that may ask, since each account has a budget of its own, and anybody can make
    one. States with dimensions of few different values are refused: a dishonest client could read
    them all.

    \b
    Examples:
      linalign-lite fit-private answer their.offer mine.states.npz their.answer
      linalign-lite fit-private answer o s a --budget b.sqlite --limit 2000 --accounts alice.pub
    """
    from linalign_lite.core.signing import account_of
    from linalign_lite.encrypt.budgets.budget import Budget
    from linalign_lite.encrypt.budgets.location import local_file
    from linalign_lite.encrypt.fitting.answer import answer_fit
    from linalign_lite.encrypt.fitting.cost import predict_fit
    from linalign_lite.encrypt.fitting.descriptions import OfferInfo, told_states
    from linalign_lite.encrypt.wire import Kind, open_framed

    console = Console(as_json, quiet)
    require_output(out, offer_at, states, budget and local_file(budget), *(public or ()))
    if limit is not None and budget is None:
        raise InputError("--limit needs a budget", hint="add --budget FILE")
    with open_framed(offer_at, Kind.OFFER) as reader:
        asked = OfferInfo.from_header(reader.header, reader.name)
    source = _read(states)
    cost = predict_fit(asked.shape, source.space.dim)
    if dry_run:
        console.result(cost.as_dict(), pair_lines(cost.rows()))
        return
    total = asked.n * cost.passes
    try:
        with console.progress("multiplying", total) as tally:
            info = answer_fit(
                offer_at,
                out,
                source.states,
                load_public(public) if public else None,
                accounts=frozenset(map(account_of, accounts)) if accounts else None,
                budget=Budget(budget, limit) if budget else None,
                checkpoint=checkpoint,
                coarse=coarse,
                progress=tally,
            )
    except (KeyboardInterrupt, SystemExit) as e:
        if checkpoint is None:
            raise
        raise Interrupted(e, f"with {checkpoint} the same command resumes") from e
    size, counted = out.stat().st_size, told_states(info)
    data = {"out": str(out), "bytes": size, "texts": info.n, "folds": info.folds}
    data |= {"columns": info.columns, "target_dim": info.space.dim, "states_counted": counted}
    rows = [
        ("answer", f"{out}, {size / 1e6:.1f} MB, for the client"),
        ("texts", f"{info.n} in {info.folds} folds"),
        ("told", f"{counted} numbers of each of {info.space.dim} dimensions"),
    ]
    console.result(data, pair_lines(rows))


@app.command()
def ask(
    url: Annotated[str, Argument(help="Address of the service.")],
    offer_at: Annotated[Path, Argument(metavar="offer", help="Your offer; its key is beside it.")],
    out: Annotated[Path, Argument(help="The answer to write (.answer).")],
    fit: Annotated[
        str | None, Option("--fit", help="Name of the provider's states; default: of your texts.")
    ] = None,
    cacert: shared.CaCert = None,
    cert: shared.Cert = None,
    cert_key: shared.CertKey = None,
    as_json: shared.AsJson = False,
    quiet: shared.Quiet = False,
) -> None:
    """Have a service answer your offer (docs/SERVICE.md).

    Registers the key beside the offer, sends the offer, and writes the answer for `finish`. A
    request that is interrupted is sent again, and charged once. Needs the extra `serve`.

    \b
    Example:
      linalign-lite fit-private ask https://provider:8443 mine.offer their.answer
    """
    from linalign_lite.encrypt.fitting.descriptions import OfferInfo
    from linalign_lite.encrypt.fitting.offer import public_of
    from linalign_lite.encrypt.wire import Kind, open_framed
    from linalign_lite.service.remote_fit import choose_fit
    from linalign_lite.service.remote_provider import RemoteProvider

    console = Console(as_json, quiet)
    require_output(out, offer_at)
    with open_framed(offer_at, Kind.OFFER) as reader:
        asked = OfferInfo.from_header(reader.header, reader.name)
    public_of(offer_at)
    said = console.note
    with RemoteProvider(
        url, seconds=_PATIENCE, progress=said, **tls_options(cacert, cert, cert_key)
    ) as provider:
        chosen = choose_fit(provider.fits(), asked, fit)
        said(f"asking for products with {chosen.name}, {chosen.dim} dimensions")
        provider.answer_fit(chosen.name, offer_at, out)
    size = out.stat().st_size
    data = {"out": str(out), "bytes": size, "fit": chosen.name, "target_dim": chosen.dim}
    console.result(data, pair_lines([("answer", f"{out}, {size / 1e6:.1f} MB, for finish")]))


@app.command()
def finish(
    answer_at: Annotated[Path, Argument(metavar="answer", help="The provider's answer.")],
    out_at: shared.MapOut,
    kept: Annotated[Path, Option("--kept", help="The file that offer kept.")],
    method: Annotated[MomentsMethod, Option(help="Method of the fit.")] = MomentsMethod.ridge,
    penalty: shared.Penalty = "auto",
    strict: shared.Strict = False,
    as_json: shared.AsJson = False,
    quiet: shared.Quiet = False,
) -> None:
    """Decrypt an answer and fit the map.

    It is the map that `fit` makes of both sides' states. Never give the provider the map, its R² or
    a refusal of this command, unless you trust it: by made-up answers it would read the secret key
    of the offer from them, and your states from the offer. Once the map is written, the kept file
    and that key are destroyed.

    \b
    Example:
      linalign-lite fit-private finish their.answer to-them.map.npz --kept mine.kept.npz
    """
    from linalign_lite.encrypt.fitting.finish import solve_fit
    from linalign_lite.encrypt.fitting.kept import destroy_kept
    from linalign_lite.encrypt.wire import Kind, open_framed
    from linalign_lite.heads.serialization import save

    console, to = Console(as_json, quiet), place(out_at)
    require_output(to, answer_at, kept)
    with open_framed(answer_at, Kind.ANSWER) as reader:
        count = reader.header.n_records
    with console.progress("decrypting", count) as tally:
        affine, report = solve_fit(
            answer_at, kept, method=method.value, penalty=penalty, progress=tally
        )
    with delivered(to) as path:
        save(path, affine)
    destroy_kept(kept)
    console.warn(report.warnings)
    rows = [("map", to), *affine.rows(), *report.rows(), ("key", f"destroyed, with {kept}")]
    verdict = report.verdict
    if verdict.advice:  # that of `fit` names options that a private fit does not have
        verdict = dataclasses.replace(verdict, advice=NEXT)
    data = {"out": str(to), **report.as_dict()}
    console.judged(data, pair_lines(rows), verdict, strict=strict)


def _read(states: str) -> TextStates:
    from linalign_lite.core.shards.states_folder import open_states
    from linalign_lite.encrypt.fitting.sources import TextStates

    return TextStates(open_states(place(states)))

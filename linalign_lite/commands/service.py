"""serve and ask: a scoring service, and a query to one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from linalign_lite.commands.answers import Labelled, load_answers, load_scorer, show_scores
from linalign_lite.commands.console import Console, in_folder, load_optional_map, require_output
from linalign_lite.commands.found import nearest_clusters, show_best, shown_ids
from linalign_lite.commands.keys import PUBLIC, SECRET, Account, Key, load_account, load_public
from linalign_lite.commands.options import AsJson, CaCert, Cert, CertKey, MapFile, Mbit, Quiet
from linalign_lite.commands.reading import read_queries
from linalign_lite.commands.scoring import AllScores, AskedClusters, MaxError, Ood, Top, make_client
from linalign_lite.errors import InputError

if TYPE_CHECKING:
    from linalign_lite.retrieval.index.card import IndexCard
    from linalign_lite.retrieval.index.clusters import NearestClusters


def serve(
    configuration: Annotated[Path, Argument(help="A TOML file, or demo.")],
    check: Annotated[
        bool, Option("--check", help="Only check the configuration, and all that it names.")
    ] = False,
    port: Annotated[
        int | None, Option(help="Instead of the configuration's; 0: a free one.", min=0, max=65535)
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Score encrypted queries that come over HTTP.

    The configuration names heads and states for private fits, who may ask, and budgets:
    docs/SERVICE.md. Logs are one JSON object a line, on standard error. SIGTERM or Ctrl-C ends the
    service after it answered what it took; SIGHUP reads the configuration again. `serve demo`
    serves a classifier of the bundled models, and prints how to ask it. Needs the extra `serve`.

    \b
    Examples:
      linalign-lite serve service.toml
      linalign-lite serve service.toml --check
      linalign-lite serve demo
      linalign-lite serve demo --port 0
    """
    from linalign_lite.service.configuration import Configuration
    from linalign_lite.service.server import run
    from linalign_lite.service.startup import require_extra, require_usable

    console = Console(quiet=quiet)
    require_extra()
    is_demo = str(configuration) == "demo"
    if is_demo:
        from linalign_lite.demo.service import demo_service, how_to_ask

        configuration = demo_service(console.note)
    if check:
        found = Configuration.load(configuration)
        require_usable(found)
        names = {"heads": found.heads, "fits": found.fits}
        served = (f"{what} {', '.join(e.name for e in es)}" for what, es in names.items() if es)
        console.result({}, [f"{configuration} is usable: {'; '.join(served)}"])
        return

    def ready(url: str) -> None:
        if is_demo:
            console.note(how_to_ask(url))

    run(configuration, port=port, quiet=quiet, ready=ready)


def tls_options(cacert: Path | None, cert: Path | None, cert_key: Path | None) -> dict[str, Any]:
    """Options of `RemoteProvider`. Raises InputError for half a certificate."""
    if (cert is None) != (cert_key is None):
        raise InputError("a client's certificate needs its key", hint="give --cert and --cert-key")
    certificate = (str(cert), str(cert_key)) if cert and cert_key else None
    return {"verify": str(cacert) if cacert else True, "certificate": certificate}


def ask(
    url: Annotated[str, Argument(help="Address of the service.")],
    queries: Annotated[
        str, Argument(help="States or vectors, or with --model texts (.txt, .jsonl, .csv, -).")
    ],
    key: Key,
    head: Annotated[
        str | None, Option("--head", help="Name of the head, if there are more.")
    ] = None,
    map_file: MapFile = None,
    model: Annotated[Path | None, Option(help="The exported model that encodes the texts.")] = None,
    clusters: AskedClusters = None,
    account: Account = None,
    top: Top = 1,
    out: AllScores = None,
    ood: Ood = None,
    texts: Labelled = None,
    max_error: MaxError = 5e-3,
    mbit: Mbit = 100.0,
    cacert: CaCert = None,
    cert: Cert = None,
    cert_key: CertKey = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Ask a scoring service, and print what is best.

    Encrypts here, and decrypts here: the secret key stays in this process. A public key that the
    service does not know is registered (public.key beside secret.key, and public.proof if it is
    there). A request that is interrupted is sent again, and charged once. Needs the extra `serve`.

    \b
    Examples:
      linalign-lite ask http://127.0.0.1:8765 mine.states.npz --key keys --map a-to-b.map.npz
      linalign-lite ask https://host texts.txt --model ash --key keys --account signing
      linalign-lite ask https://host queries.txt --model ash --key keys --head documents --top 10
    """
    from linalign_lite.service.remote_provider import RemoteProvider, UnknownKeyError

    console = Console(as_json, quiet)
    trust = tls_options(cacert, cert, cert_key)
    if out is not None:
        require_output(out, queries, map_file)
    by, known = load_scorer(ood), load_answers(texts)
    client = make_client(key, account, max_error=max_error, mbit=mbit)
    affine = load_optional_map(map_file)
    said = console.note
    with RemoteProvider(url, head, progress=said, **trust) as provider:
        chosen = provider.chosen()
        search, reader = bool(chosen.index), chosen.space
        states = read_queries(queries, model, affine, console, search=search, reader=reader)
        space = states.space if affine is None else affine.target
        hint = "" if affine else "or is --map missing?"
        what = f"these states do not belong to head {chosen.name}"
        chosen.space.require(space, what, hint=hint, any_prompt=search)
        card, ids = provider.index() if chosen.index else (None, None)
        if clusters is not None and card is None:
            raise InputError("--clusters are of an index", got=f"head {chosen.name}")
        asked: IndexCard | NearestClusters | None = card
        if clusters is not None and card is not None:
            asked = nearest_clusters(provider.centroids(card), clusters)
        if ids is not None and (out is not None or by is not None or known is not None):
            raise InputError("--out, --ood and --texts are for scores of a head")
        with console.progress("encrypting", len(states)) as tally:
            query = client.encrypt(
                states, affine, n_outputs=chosen.n_outputs, index=asked, progress=tally
            )
        try:
            response = provider.score(query)
        except UnknownKeyError:
            for one in load_public([in_folder(key, SECRET).with_name(PUBLIC)]):
                provider.register(one)
                said(f"registered the public key {one.digest.hex()[:8]}")
            response = provider.score(query)
        said(f"{len(states)} states scored by head {chosen.name}")
        signer = load_account(account)
        if chosen.has_budget and signer is not None:
            usage = provider.budget(signer)
            said(f"account: {usage['used']} of {usage['limit']} states used")
    scores = client.decrypt(response, query)
    if card is None or ids is None:
        show_scores(console, scores, by, top, out, known)
    else:
        show_best(console, scores, top, shown_ids(scores, card, ids, url))

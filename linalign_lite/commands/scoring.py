"""encrypt, score, decrypt: the client's and the provider's side of a private query."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from linalign_lite.commands.answers import Labelled, load_answers, load_scorer, show_scores
from linalign_lite.commands.console import Console, in_folder, load_optional_map, require_output
from linalign_lite.commands.found import (
    asked_words,
    ids_of,
    load_asked,
    load_optional_card,
    show_best,
)
from linalign_lite.commands.keys import (
    PROOF,
    PUBLIC,
    SECRET,
    Account,
    Key,
    load_account,
    load_public,
)
from linalign_lite.commands.options import AsJson, MapFile, Mbit, Quiet
from linalign_lite.commands.reading import read_queries
from linalign_lite.core.choices import Profile
from linalign_lite.errors import InputError

if TYPE_CHECKING:
    from linalign_lite.core.head import Head
    from linalign_lite.encrypt.client import Client
    from linalign_lite.encrypt.keys import SecretKey
    from linalign_lite.retrieval.index.reading import Index


_KEPT = 1 << 30  # bytes of encoded rows that are used again
_MAX_ERROR = (
    "Refuse scores whose error may be larger; of an index, their noise over the largest score."
)
MaxError = Annotated[float, Option(help=_MAX_ERROR, min=0.0)]
AskedClusters = Annotated[
    str | None,
    Option(
        "--clusters", help="Ask as many nearest clusters alone, or auto; the provider learns which."
    ),
]
Top = Annotated[int, Option(help="Number of best labels to print.", min=1)]
AllScores = Annotated[Path | None, Option(help="Write all scores to this file (JSONL).")]
Ood = Annotated[
    str | None, Option(help="Add an outlier score: energy, msp, max-logit, or a detector file.")
]


def encrypt(
    queries: Annotated[
        str, Argument(help="States or vectors, or with --model texts (.txt, .jsonl, .csv, -).")
    ],
    out: Annotated[Path, Argument(help="The query file to write (.query).")],
    key: Key,
    map_file: MapFile = None,
    model: Annotated[Path | None, Option(help="The exported model that encodes the texts.")] = None,
    outputs: Annotated[
        int | None,
        Option(help="Classes of the provider's head, if known: makes smaller files.", min=1),
    ] = None,
    index: Annotated[
        Path | None, Option("--index", help="The provider's index.json, to search its index.")
    ] = None,
    clusters: AskedClusters = None,
    account: Account = None,
    mbit: Mbit = 100.0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Encrypt states or texts as queries for a provider.

    With --clusters, which reads centroids.rows beside index.json, only rows of the clusters nearest
    to the queries are scored, of a file's queries together; auto: as many as held 0.95 of the first
    ten when the index was built. The clusters are named openly: the provider learns what the
    queries are near.

    \b
    Examples:
      linalign-lite encrypt mine.states.npz mine.query --key keys --map a-to-b.map.npz
      linalign-lite encrypt mine.states.npz mine.query --key keys --index index.json
      linalign-lite encrypt mine.states.npz mine.query --key keys --index index.json --clusters 4
      echo "is it raining?" | linalign-lite encrypt - mine.query --model ash --key keys --map m.npz
    """
    console = Console(as_json, quiet)
    require_output(out, queries, map_file, index)
    if index is not None and outputs is not None:
        raise InputError("--outputs is for a head", hint="an index states its number of rows")
    card = load_optional_card(index)
    asked = load_asked(index, card, clusters)
    client = make_client(key, account, mbit=mbit)
    affine = load_optional_map(map_file)
    search, reader = card is not None, None if card is None else card.space
    states = read_queries(queries, model, affine, console, search=search, reader=reader)
    with console.progress("encrypting", len(states)) as tally:
        info = client.encrypt_to(
            out, states, affine, n_outputs=outputs, index=asked, progress=tally
        )
    size = out.stat().st_size
    what = asked_words(card, info.clusters) if card else "a head"
    data = {"out": str(out), "queries": info.n, "bytes": size, "space": info.space.describe()}
    console.result(
        data | ({"clusters": info.clusters} if info.clusters else {}),
        [
            f"{out}: {info.n} encrypted queries, {size / max(info.n, 1) / 1e3:.1f} kB each, "
            f"for {what} that reads {info.space.describe()}"
        ],
    )


def score(
    query: Annotated[Path, Argument(help="A client's query file.")],
    out: Annotated[Path, Argument(help="The response file to write (.response).")],
    head: Annotated[Path | None, Option("--head", help="The provider's head.")] = None,
    index: Annotated[
        Path | None, Option("--index", help="The provider's index, in place of a head.")
    ] = None,
    public: Annotated[list[Path] | None, Option(help="Public key or folder; repeatable.")] = None,
    map_file: Annotated[
        Path | None,
        Option(
            "--map",
            help="Fold this map into the head; none of fit-private, see docs/PRIVATE_FIT.md.",
        ),
    ] = None,
    profile: Annotated[
        Profile, Option(help="The profile that queries may have; trusted reveals the head.")
    ] = Profile.private,
    budget: Annotated[str | None, Option(help="Count states per account here.")] = None,
    limit: Annotated[
        int | None, Option(help="With --budget: most states per account.", min=1)
    ] = None,
    max_error: MaxError = 5e-3,
    threads: Annotated[
        int | None, Option(help="Processes or threads; default: one per core for much.", min=1)
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Score encrypted queries by a classifier or an index.

    Needs no secret key: the provider learns neither the texts nor the scores. With --budget every
    query must be signed by its key's account, which pays for it once: sent again, it gets the same
    response.

    \b
    Examples:
      linalign-lite score theirs.query theirs.response --head intents.head.npz --public public.key
      linalign-lite score q r --head h.npz --public keys --map b-to-a.map.npz
      linalign-lite score q r --index documents.index --public keys
      linalign-lite score q r --head h.npz --public keys --budget clients.sqlite --limit 300
    """
    from linalign_lite.core.executor import cores
    from linalign_lite.encrypt.budgets.budget import Budget
    from linalign_lite.encrypt.budgets.location import local_file
    from linalign_lite.encrypt.messages import QueryInfo
    from linalign_lite.encrypt.parameters import by_name
    from linalign_lite.encrypt.planner import predict_cost
    from linalign_lite.encrypt.provider import Provider
    from linalign_lite.encrypt.wire import Kind, open_framed

    console = Console(as_json, quiet)
    require_output(
        out, query, head, index, map_file, budget and local_file(budget), *(public or ())
    )
    if limit is not None and budget is None:
        raise InputError("--limit needs a budget", hint="add --budget FILE")
    loaded = load_scored(head, index, map_file)
    with open_framed(query, Kind.QUERY) as reader:
        asked = QueryInfo.from_header(reader.header, reader.name)
    provider = Provider(
        loaded,
        keys=load_public(public or []),
        accept=[by_name(profile.value)],
        max_error=max_error,
        budget=Budget(budget, limit) if budget else None,
        # rows that are used once are encoded when they are used
        cache_bytes=_KEPT if asked.layout.blocks(asked.n) > 1 else 0,
    )
    if threads is None:
        outputs = asked.n_outputs if asked.clusters else None  # fewer than all rows
        shape = asked.layout, asked.n, outputs or provider.n_outputs
        cost = predict_cost(asked.parameters, *shape)
        # processes take a second to start, threads nothing
        much = 4e3 if asked.layout.blocks(asked.n) > 1 else 1e2
        threads = cores() if cost.score_ms > much else 1
    with console.progress("scoring", asked.n) as tally:
        info = provider.score_file(query, out, tally, workers=threads)
    size = out.stat().st_size
    n, outputs = info.n, info.n_outputs
    data = {"out": str(out), "queries": n, "outputs": outputs, "bytes": size}
    console.result(
        {**data, "profile": info.parameters.name},
        [
            f"{out}: {n} queries scored for {outputs} {'rows' if index else 'classes'}, "
            f"{size / n / 1e3:.1f} kB each"
        ],
    )


def decrypt(
    response: Annotated[Path, Argument(help="The provider's response file.")],
    key: Key,
    query: Annotated[Path | None, Option(help="The query file, to check the response.")] = None,
    top: Top = 1,
    out: AllScores = None,
    ood: Ood = None,
    texts: Labelled = None,
    index: Annotated[
        Path | None, Option("--index", help="The index.json asked, with ids.txt beside it.")
    ] = None,
    max_error: MaxError = 5e-3,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Decrypt a response and print the best labels.

    Prints one line per query, in the order of the queries: labels and scores, which are the head's
    own numbers and no probabilities. Of an index it prints the best documents in TREC's format, as
    `index search`, and with --index their ids. --ood adds an out-of-distribution
    score computed from the decrypted scores; a detector file with a threshold adds in or out.
    With --texts, --out has the texts beside their scores, and the accuracy is printed where they
    have labels (on standard error if standard output is no terminal).
    Never send scores back to the provider; docs/SECURITY.md explains why.

    \b
    Examples:
      linalign-lite decrypt mine.response --key keys
      linalign-lite decrypt mine.response --key keys --top 3 --out scores.jsonl
      linalign-lite decrypt mine.response --key keys --ood energy
      linalign-lite decrypt mine.response --key keys --texts test.jsonl --out scores.jsonl
      linalign-lite decrypt mine.response --key keys --index index.json --top 10
    """
    from linalign_lite.encrypt.client import Client
    from linalign_lite.encrypt.wire import Kind, open_framed

    console = Console(as_json, quiet)
    if out is not None:
        require_output(out, response, query)
    by, card, asked = load_scorer(ood), load_optional_card(index), load_answers(texts)
    hint = "the folder of the keys that the queries were encrypted with"
    client = Client(_secret_key(key, hint)[0], max_error=max_error)
    with open_framed(response, Kind.RESPONSE) as reader:
        count = reader.header.n_records
    with console.progress("decrypting", count) as tally:
        scores = client.decrypt_from(response, query, progress=tally)
    if scores.ids or index is not None:
        if out is not None or by is not None or asked is not None:
            raise InputError("--out, --ood and --texts are for scores of a head")
        show_best(console, scores, top, ids_of(scores, index, card))
        return
    show_scores(console, scores, by, top, out, asked)


def make_client(key: Path, account: Path | None, **options: float) -> Client:
    """Make a client of the secret key, proven if its proof is beside it."""
    from linalign_lite.encrypt.client import Client

    hint = "`linalign-lite keygen FOLDER` makes one"
    signer, (secret, path) = load_account(account), _secret_key(key, hint)
    proven = path.with_name(PUBLIC).with_suffix(PROOF).exists()
    return Client(secret, account=signer, proven=proven, **options)


def _secret_key(key: Path, hint: str) -> tuple[SecretKey, Path]:
    """Load the secret key of --key, a file or the folder of one; with the path of its file."""
    from linalign_lite.encrypt.keys import SecretKey

    path = in_folder(key, SECRET)
    if not path.exists():
        raise InputError(f"{path} is not there", expected="a secret key", hint=hint)
    return SecretKey.load(path), path


def load_scored(head: Path | None, index: Path | None, map_file: Path | None) -> Head | Index:
    """The head, with a map folded in, or the index, of which one is given."""
    from linalign_lite.core.serialization import load_head
    from linalign_lite.encrypt.fitting.finish import load_shown
    from linalign_lite.retrieval.index.reading import open_index

    if (head is None) == (index is None):
        raise InputError("give --head or --index, one of the two")
    if index is not None:
        if map_file is not None:
            raise InputError("--map is folded into a head", hint="the client maps its queries")
        return open_index(index)
    assert head is not None
    return load_head(head) if map_file is None else load_head(head) @ load_shown(map_file)

"""plan, budget, audit: cost, query limits and leakage of an encrypted exchange."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from linalign_lite.commands.console import Console
from linalign_lite.commands.options import AsJson, Quiet
from linalign_lite.core.choices import Profile
from linalign_lite.core.text_tables import column_lines
from linalign_lite.errors import InputError, LinalignError


def plan(
    dim: Annotated[int, Option(help="Dimensions of the states that are encrypted.", min=1)],
    classes: Annotated[int, Option(help="Outputs of the provider's head.", min=1)],
    queries: Annotated[int, Option(help="States to encrypt together.", min=1)] = 1,
    profile: Annotated[Profile, Option(help="Security profile, as for keygen.")] = Profile.private,
    bandwidth: Annotated[float, Option(help="Bandwidth in Mbit/s.", min=0.001)] = 100.0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Predict size and time of an encrypted exchange.

    Chooses a packing of states into ciphertexts and lists the others. Bytes are exact except for
    headers. Times are for one core like that of the published benchmark, to compare packings.

    \b
    Examples:
      linalign-lite plan --dim 384 --classes 150
      linalign-lite plan --dim 384 --classes 150 --queries 4500 --profile trusted
    """
    from linalign_lite.encrypt.parameters import by_name
    from linalign_lite.encrypt.planner import HEADINGS, alternative_layouts, relative_error

    console = Console(as_json, quiet)
    parameters = by_name(profile.value)
    rate = bandwidth * 1e6 / 8
    options = alternative_layouts(parameters, dim, classes, queries, rate)
    rows = [o.as_dict(rate, relative_error(parameters, o.layout, classes)) for o in options]
    best, layout = rows[0], options[0].layout
    together = f", {layout.batch} states per ciphertext" if layout.batch > 1 else ""
    data = {"profile": profile.value, "dim": dim, "classes": classes, "queries": queries}
    console.result(
        {**data, "chosen": best, "alternatives": rows[1:]},
        [
            f"{layout.packing}{together}, {layout.chunks} chunk(s) per state, "
            f"{best['products']} product(s); error at most {best['error_over_range']:.1e} "
            f"of the head's range ({best['precision_bits']:.0f} bits)",
            f"lowest total time at {bandwidth:g} Mbit/s among:",
            *column_lines([HEADINGS, *(o.cells(rate) for o in options)]),
        ],
    )


def budget(
    file: Annotated[Path, Argument(help="The provider's budget file.")],
    limit: Annotated[int | None, Option(help="Set the most states per key.", min=1)] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show or set how many queries each client may ask.

    Counts the states scored for each client's key.

    \b
    Examples:
      linalign-lite budget clients.sqlite --limit 300
      linalign-lite budget clients.sqlite
    """
    from linalign_lite.encrypt.query_budget import Budget

    console = Console(as_json, quiet)
    if limit is None and not file.exists():
        raise InputError(f"{file} is not there", hint="make it with --limit")
    book = Budget(file, limit)
    usage = book.usage()
    rows = [("key", "used", "of", "not finished")]
    rows += [(u.key[:16], str(u.used), str(u.limit), str(u.pending)) for u in usage]
    console.result(
        {"limit": book.limit, "keys": [vars(u) for u in usage]},
        [f"{book.limit} states for each key", *(column_lines(rows) if usage else [])],
    )


def audit(
    head: Annotated[Path, Option("--head", help="The provider's head.")],
    profile: Annotated[Profile, Option(help="Security profile, as for keygen.")] = Profile.private,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Test how much encrypted responses reveal of a head.

    Makes keys, sends queries, and tries to recover the head as a client could: from one unprotected
    product (which works), from one response of the profile, from the noise of many, from as many
    chosen queries as linear algebra needs (which always works: only a budget helps), and from the
    fewer that read several weights at once, where these are coarse (int8, int4, ternary). Lists
    what sizes and times depend on. Exit code 1 if a response revealed the head.

    \b
    Example:
      linalign-lite audit --head intents.head.npz
    """
    from linalign_lite.core.serialization import load_head
    from linalign_lite.encrypt.leakage_audit import audit as run
    from linalign_lite.encrypt.parameters import by_name

    console = Console(as_json, quiet)
    loaded = load_head(head)
    with console.progress("attacking", 5) as tally:
        report = run(loaded, by_name(profile.value), progress=tally)
    console.result(report.as_dict(), report.lines())
    if report.leaks and profile is Profile.private:
        raise LinalignError("a response gave the head away", hint="report this: it is a defect")

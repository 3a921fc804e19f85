"""plan, budget, audit: cost, query limits and leakage of an encrypted exchange."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from linalign_lite.commands.console import Console
from linalign_lite.commands.found import load_optional_card, ranking_lines, ranking_verdict
from linalign_lite.commands.options import AsJson, Mbit, Quiet, Strict
from linalign_lite.core.choices import Profile
from linalign_lite.core.text_tables import column_lines
from linalign_lite.core.verdict import BUDGET_LEFT, PRECISION, Verdict
from linalign_lite.errors import InputError, LinalignError

if TYPE_CHECKING:
    from linalign_lite.encrypt.budgets.budget import Budget, Usage


def plan(
    dim: Annotated[
        int | None, Option(help="Dimensions of the states that are encrypted.", min=1)
    ] = None,
    classes: Annotated[int | None, Option(help="Outputs of the provider's head.", min=1)] = None,
    index: Annotated[
        Path | None, Option("--index", help="An index.json, in place of --dim and --classes.")
    ] = None,
    queries: Annotated[int, Option(help="States to encrypt together.", min=1)] = 1,
    profile: Annotated[Profile, Option(help="Security profile, as for keygen.")] = Profile.private,
    mbit: Mbit = 100.0,
    proven: Annotated[
        bool, Option("--proven", help="The key has a proof (keygen --prove), for many queries.")
    ] = False,
    strict: Strict = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Predict size and time of an encrypted exchange.

    Chooses a packing of states into ciphertexts and lists the others. Bytes are exact except for
    headers. Times are for one core like that of the published benchmark, to compare packings.

    \b
    Examples:
      linalign-lite plan --dim 384 --classes 150
      linalign-lite plan --dim 384 --classes 150 --mbit 10
      linalign-lite plan --dim 384 --classes 150 --queries 4500 --proven
      linalign-lite plan --index index.json --proven
    """
    from linalign_lite.encrypt.parameters import by_name
    from linalign_lite.encrypt.planner import (
        HEADINGS,
        alternative_layouts,
        bytes_per_second,
        relative_error,
    )

    console = Console(as_json, quiet)
    parameters = by_name(profile.value)
    card = load_optional_card(index)
    if card is not None and (dim, classes) == (None, None):
        dim, classes = card.space.dim, card.rows
    elif card is not None or dim is None or classes is None:
        raise InputError("give --dim and --classes, or --index alone")
    rate = bytes_per_second(mbit)
    options = alternative_layouts(parameters, dim, classes, queries, rate, proven=proven)
    rounded: dict[str, Any] = {}
    if card is not None and card.largest_norm:
        norm = math.ldexp(card.largest_norm, -card.exponent)
        rounded = {"row_bits": card.row_bits, "row_norm": norm}
    errors = [relative_error(parameters, o.layout, classes, **rounded) for o in options]
    rows = [o.as_dict(rate, error) for o, error in zip(options, errors, strict=True)]
    best, layout = rows[0], options[0].layout
    together = f", {layout.batch} states per ciphertext" if layout.batch > 1 else ""
    data = {"profile": profile.value, "dim": dim, "classes": classes, "queries": queries}
    precise = PRECISION.judge(-math.log2(errors[0]), "--profile private, whose modulus is larger")
    console.judged(
        {**data, "chosen": best, "alternatives": rows[1:]},
        [
            f"{layout.packing}{together}, {layout.chunks} chunk(s) per state, "
            f"{best['products']} product(s); error at most {best['error_over_range']:.1e} "
            f"of the head's range ({best['precision_bits']:.0f} bits)",
            "lowest time of work among:"
            if math.isinf(mbit)
            else f"lowest total time at {mbit:g} Mbit/s among:",
            *column_lines([HEADINGS, *(o.cells(rate) for o in options)]),
            *(ranking_lines(card) if card is not None else ()),
        ],
        precise if card is None else ranking_verdict(card),
        strict=strict,
    )


def budget(
    file: Annotated[str, Argument(help="The provider's budget: a file, or postgresql://….")],
    limit: Annotated[int | None, Option(help="Set the most states.", min=1)] = None,
    bits: Annotated[int | None, Option(help="Set the most bits of scores.", min=1)] = None,
    account: Annotated[
        str | None, Option(help="Of this account alone: its first digits.", metavar="HEX")
    ] = None,
    close: Annotated[bool, Option("--close", help="Score nothing more for --account.")] = False,
    reopen: Annotated[bool, Option("--open", help="Undo --close.")] = False,
    strict: Strict = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show or set how many queries each client may ask.

    Counts the states scored for each account, and the bits that their scores can tell of the head.
    A budget for a head of d dimensions and int8 weights should stay below 8 d bits for each class.

    \b
    Examples:
      linalign-lite budget clients.sqlite --limit 300
      linalign-lite budget clients.sqlite --account 3f2a --limit 1000 --bits 200000
      linalign-lite budget clients.sqlite --account 3f2a --close
      linalign-lite budget clients.sqlite
      linalign-lite budget "postgresql://provider@db/heads?budget=intents" --limit 300
    """
    from linalign_lite.encrypt.budgets.budget import Budget
    from linalign_lite.encrypt.budgets.location import local_file

    console = Console(as_json, quiet)
    if account is None and (close or reopen):
        raise InputError("--close and --open need --account")
    if close and reopen:
        raise InputError("--close and --open exclude each other")
    path = local_file(file)
    if (limit is None or account is not None) and path is not None and not path.exists():
        raise InputError(f"{file} is not there", hint="make it with --limit")
    if account is None:
        book = Budget(file, limit, bits=bits)
    else:
        book = Budget(file)
        closed = True if close else False if reopen else None
        book.change(_account(book, account), limit=limit, bits=bits, closed=closed)
    usage = book.usage()
    rows = [("account", "used", "of", "not finished", "bits", "of", "")]
    for u in usage:
        most = "" if u.bits_limit is None else str(u.bits_limit)
        counts = str(u.used), str(u.limit), str(u.pending), str(u.bits), most
        rows.append((u.account[:16], *counts, "closed" if u.closed else ""))
    console.judged(
        {"limit": book.limit, "bits": book.bits, "accounts": [vars(u) for u in usage]},
        [f"{book.limit} states for each account", *(column_lines(rows) if usage else [])],
        _left([u for u in usage if not u.closed]),
        strict=strict,
    )


def _left(accounts: Sequence[Usage]) -> Verdict | None:
    """Grade what the account with the least left may still ask; None without accounts."""

    def share(usage: Usage) -> float:
        states = 1 - usage.used / usage.limit
        return (
            states if usage.bits_limit is None else min(states, 1 - usage.bits / usage.bits_limit)
        )

    if not accounts:
        return None
    least = min(accounts, key=share)
    advice = f"for {least.account[:16]} a higher --limit or --bits, or an end of its answers"
    return BUDGET_LEFT.judge(share(least), advice)


def _account(book: Budget, digits: str) -> bytes:
    """The account that starts with these digits; a whole one need not be known yet."""
    if re.fullmatch("[0-9a-f]{64}", digits):
        return bytes.fromhex(digits)
    found = [u.account for u in book.usage() if digits and u.account.startswith(digits)]
    if len(found) != 1:
        problem = "no account" if not found else "more than one account"
        raise InputError(
            f"{problem} in this budget starts with {digits[:64]!r}",
            hint="give more digits, or all 64 of an account that has not asked yet",
        )
    return bytes.fromhex(found[0])


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
    from linalign_lite.encrypt.audit.report import audit as run
    from linalign_lite.encrypt.parameters import by_name

    console = Console(as_json, quiet)
    loaded = load_head(head)
    with console.progress("attacking", 5) as tally:
        report = run(loaded, by_name(profile.value), progress=tally)
    console.result(report.as_dict(), report.lines())
    if report.leaks and profile is Profile.private:
        raise LinalignError("a response gave the head away", hint="report this: it is a defect")

"""compat: whether two tokenizers go together."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from linalign_lite.commands.console import AsJson, Console, table
from linalign_lite.commands.extract import Format, Separator


def register(app: typer.Typer) -> None:
    app.command()(compat)


def compat(
    source: Annotated[Path, typer.Argument(help="The source's folder, with tokenizer.json.")],
    target: Annotated[Path, typer.Argument(help="The target's folder, with tokenizer.json.")],
    texts: Annotated[str, typer.Argument(help="A .txt, .jsonl or .csv file, or - for stdin.")],
    fmt: Annotated[Format, typer.Option("--format", help="What TEXTS is.")] = Format.auto,
    limit: Annotated[int | None, typer.Option(help="Read only the first N texts.", min=1)] = None,
    separator: Separator = None,
    as_json: AsJson = False,
) -> None:
    """Say whether two tokenizers go together, before anybody runs a model.

    Needs no more than the tokenizer.json of two folders, exported or not. How much of a text gives
    pairs to fit a map for generation on, how alike the two cut it, and what that means. A verdict
    is no failure: the exit code is 0 whatever it says.

    \b
    Examples:
      linalign-lite compat small-model large-model texts.txt
      linalign-lite compat ./my-llama ./my-qwen texts.jsonl --limit 1000 --json
    """
    from linalign_lite.extraction.texts import read_texts
    from linalign_lite.extraction.tokenizer_compatibility import check_compatibility

    console = Console(as_json)
    read = read_texts(texts, fmt=fmt.value, limit=limit, separator=separator)
    found = check_compatibility(source, target, read.texts)
    data = {
        **dataclasses.asdict(found),
        "paired_target": found.paired_target,
        "paired_source": found.paired_source,
        "exact_match": found.exact_match,
        "source_fertility": found.source_fertility,
        "target_fertility": found.target_fertility,
        "fertility_ratio": found.fertility_ratio,
        "promising": found.promising,
        "verdict": found.verdict,
        "blank": read.n_blank,
    }
    lines = table(
        [
            ("texts", f"{found.n_texts} ({found.words} words)"),
            ("tokens", f"{found.source_tokens} source, {found.target_tokens} target"),
            ("exact pairs", found.pairs),
            ("  of the target's tokens", f"{found.paired_target:.3f}"),
            ("  of the source's tokens", f"{found.paired_source:.3f}"),
            ("exact-token match", f"{found.exact_match:.3f}"),
            ("vocabulary Jaccard", f"{found.vocabulary_jaccard:.3f}"),
            ("tokens per word", f"{found.source_fertility:.3f} source, "
             f"{found.target_fertility:.3f} target, ratio {found.fertility_ratio:.3f}"),
        ]
    )  # fmt: skip
    console.result(data, [*lines, "", found.verdict])

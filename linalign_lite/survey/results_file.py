"""Write and read `results.json`. docs/FORMAT.md, section 6."""

from __future__ import annotations

import dataclasses
import json

from linalign_lite.errors import FormatError, InputError
from linalign_lite.storage.atomic import PathLike, open_regular, write_atomic
from linalign_lite.storage.schema import parse, strict_json
from linalign_lite.survey.results import Results
from linalign_lite.survey.validation import check_results

FORMAT, VERSION = "linalign-survey", 1
MAX_BYTES = 64 << 20  # as Python objects it takes some twenty times as much


def save_results(path: PathLike, results: Results) -> None:
    """Write `results.json`, whole or not at all; the same results give the same bytes."""
    whole = {"format": FORMAT, "version": VERSION, **dataclasses.asdict(results)}
    text = json.dumps(whole, indent=1, allow_nan=False, ensure_ascii=False)
    write_atomic(path, text.encode() + b"\n")


def load_results(path: PathLike) -> Results:
    """Read `results.json`. Raises FormatError when anything in it is not as documented.

    What is read hangs together: see `checking.check_results`.
    """
    with open_regular(path) as f:
        raw = f.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise FormatError(f"{path} is too large", expected=f"at most {MAX_BYTES} bytes")
    try:
        whole = strict_json(raw)
    except (ValueError, RecursionError) as e:
        raise FormatError(f"{path} is not JSON", got=type(e).__name__) from e
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        raise FormatError(f"{path} is not a survey's results", expected=f"format {FORMAT}")
    if whole.get("version") != VERSION or type(whole["version"]) is not int:
        raise FormatError(f"{path} has a version that this library does not read",
                          got=str(whole.get("version"))[:20], expected=str(VERSION))  # fmt: skip
    body = {k: v for k, v in whole.items() if k not in {"format", "version"}}
    try:
        results: Results = parse(Results, body, "results")
        check_results(results)
    except InputError as e:
        raise FormatError(f"{path}: {e}") from e
    return results

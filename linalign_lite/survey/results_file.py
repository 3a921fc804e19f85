"""Write and read `results.json`. docs/FORMAT.md, section 6."""

import json

from linalign_lite.errors import FormatError
from linalign_lite.storage.atomic import PathLike, open_regular, write_atomic
from linalign_lite.storage.schema import format_errors, parse, plain, read_document
from linalign_lite.survey.results import Results
from linalign_lite.survey.validation import check_results

FORMAT, VERSION = "linalign-survey", 1
MAX_BYTES = 64 << 20  # as Python objects it takes some twenty times as much


def save_results(path: PathLike, results: Results) -> None:
    """Write `results.json` atomically; the same results give the same bytes."""
    whole = {"format": FORMAT, "version": VERSION, **plain(results)}
    text = json.dumps(whole, indent=1, allow_nan=False, ensure_ascii=False)
    write_atomic(path, text.encode() + b"\n")


def load_results(path: PathLike) -> Results:
    """Read `results.json` and check its consistency (`validation.check_results`).

    Raises InputError for a missing file, FormatError for any other content than documented.
    """
    with open_regular(path) as f:
        raw = f.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise FormatError(f"{path} is too large", expected=f"at most {MAX_BYTES} bytes")
    fields = read_document(raw, path, "file of survey results", kind=FORMAT, version=VERSION)
    with format_errors(path, "file of survey results"):
        results: Results = parse(Results, fields, "results")
        check_results(results)
    return results

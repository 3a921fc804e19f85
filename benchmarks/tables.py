"""Write the tables of README and docs from benchmarks/results/*.json.

python benchmarks/tables.py            # write
python benchmarks/tables.py --check    # exit with 1 when one of them says something else
"""

from __future__ import annotations

import re
import sys

from common import ROOT
from tabling import (
    encryption,
    few_pairs,
    machines,
    maps,
    outliers,
    published,
    replication,
    retrieval,
    search,
    stores,
    verdicts,
)

PAGES = (
    ROOT / "README.md",
    *(
        ROOT / "docs" / f"{n}.md"
        for n in (
            "DESIGN",
            "FEW_PAIRS",
            "FIGURES",
            "PRIVATE_FIT",
            "REPLICATION",
            "SEARCH",
            "SERVICE",
            "SMALL",
            "VERDICTS",
        )
    ),
)
KINDS = (
    few_pairs,
    maps,
    outliers,
    encryption,
    machines,
    published,
    replication,
    retrieval,
    search,
    stores,
    verdicts,
)
IMAGES = ROOT / "docs" / "images"
PICTURES = {IMAGES / "few_pairs.svg": few_pairs.picture, IMAGES / "search.svg": search.picture}
TABLES = {f.__name__: f for kind in KINDS for f in kind.TABLES}


def render(text: str) -> str:
    """The text with every table made anew."""

    def one(match: re.Match[str]) -> str:
        return f"<!-- table: {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", one, text, flags=re.DOTALL)


def main() -> int:
    stale = []
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        made = render(text)
        if made != text:
            stale.append(path.name)
        if "--check" not in sys.argv:
            path.write_text(made, encoding="utf-8")
    for path, draw in PICTURES.items():
        made = draw()
        if not path.exists() or path.read_text(encoding="utf-8") != made:
            stale.append(path.name)
        if "--check" not in sys.argv:
            path.write_text(made, encoding="utf-8")
    if "--check" in sys.argv:
        print(f"out of date: {', '.join(stale)}" if stale else "the tables agree with the results")
        return int(bool(stale))
    return 0


if __name__ == "__main__":
    sys.exit(main())

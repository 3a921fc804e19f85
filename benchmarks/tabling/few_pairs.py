"""Maps from few pairs or none: tables, and the picture of docs/FEW_PAIRS.md."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import mean
from typing import Any

from tabling.base import load, table
from tabling.plot import Line, Picture, svg

LOOSE = "other texts"
SHOWN = (("MiniLM", "EmbeddingGemma"), ("EmbeddingGemma", "MiniLM"))


def runs(kind: str) -> dict[tuple[str, str, int], list[dict[str, Any]]]:
    """Runs of a kind by source, target and number of pairs."""
    found: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for run in load("few_pairs")["runs"]:
        job = run["job"]
        if job["kind"] == kind:
            found.setdefault((job["source"], job["target"], job["pairs"]), []).append(run)
    return dict(sorted(found.items(), key=lambda item: item[0][2]))


def few_pairs() -> str:
    """Partner first with the pairs alone, and with unshared texts; CLINC150 through both."""
    alone, rows = runs("alone"), []
    for key in sorted(runs("unpaired"), key=lambda k: (k[:2] not in SHOWN, *k)):
        found = runs("unpaired")[key]
        taken = [r for r in found if "refused" not in r]
        rows.append([
            *key[:2], str(key[2]), spread(r["first"] for r in alone.get(key, ())),
            spread(r["first"] for r in taken), spread(r["ten"] for r in taken),
            spread(r["clinc150"] for r in alone.get(key, ()) if "clinc150" in r),
            spread(r["clinc150"] for r in taken if "clinc150" in r),
            f"{len(found) - len(taken)} of {len(found)}",
            spread(r["closeness"] for r in taken),
        ])  # fmt: skip
    head = ["from", "to", "pairs", "pairs alone: first", "with unshared texts: first",
            "among the first ten", "CLINC150, pairs alone", "with unshared texts", "refused",
            "closeness"]  # fmt: skip
    return table(head, rows)


def few_pairs_alone() -> str:
    """Ridge maps on more and more pairs."""
    rows = [
        [*key[:2], f"{key[2]:,}", spread(r["first"] for r in found),
         spread(r["clinc150"] for r in found if "clinc150" in r)]
        for key, found in runs("alone").items() if key[:2] in SHOWN
    ]  # fmt: skip
    return table(["from", "to", "pairs", "partner first", "CLINC150"], rows)


def few_pairs_refused() -> str:
    """States that have nothing in common: how many were refused."""
    rows = []
    for kind in ("normal", "permuted", LOOSE):
        found = [r for key, some in runs(kind).items() if not key[2] for r in some]
        refused = sum("refused" in r for r in found)
        close = [r["closeness"] for r in found if "closeness" in r]
        rows.append([kind, str(len(found)), str(refused), f"{max(close, default=0):.3f}"])
    return table(["source", "runs", "refused", "largest closeness"], rows)


def few_pairs_differ() -> str:
    """Unshared texts of another kind on one side."""
    rows = []
    for kind in (
        LOOSE,
        "half other texts",
        "half of each text",
        "English sayings",
        "German sayings",
    ):
        for key, found in runs(kind).items():
            if key[2]:
                first = spread(r["first"] for r in found if "first" in r)
                refused = sum("refused" in r for r in found)
                rows.append([kind, *key[:2], str(key[2]), first, f"{refused} of {len(found)}"])
    head = ["source's unshared texts", "from", "to", "pairs", "partner first", "refused"]
    return table(head, rows)


def few_pairs_peer() -> str:
    """No pairs: mini-vec2vec's notebook and this project's fit on the same states."""
    ours, rows = runs("unpaired"), []
    for key, found in runs("mini-vec2vec").items():
        own = ours[key][0]
        rows.append([
            *key[:2], f"{found[0]['first']:.3f}", f"{found[0]['seconds'] / 60:.1f} min",
            "refused" if "refused" in own else f"{own['first']:.3f}",
            f"{own['seconds'] / 60:.1f} min",
        ])  # fmt: skip
    head = ["from", "to", "mini-vec2vec: first", "time", "linalign-lite: first", "time"]
    return table(head, rows)


def few_pairs_scale() -> str:
    """Time and memory of many texts."""
    rows = [
        [f"{r['texts']:,}", str(r["dimensions"]), str(key[2]), f"{r['seconds'] / 60:.1f} min",
         f"{r['peak_gb']:.1f} GB", f"{r['r2']:.2f}"]
        for key, found in runs("scale").items() for r in found
    ]  # fmt: skip
    return table(["texts a side", "dimensions", "pairs", "time", "memory", "R² of the pairs"], rows)


def spread(values: Iterable[float]) -> str:
    """Mean, and smallest to largest where there are several."""
    kept = list(values)
    if not kept:
        return ""
    if len(kept) == 1:
        return f"{kept[0]:.3f}"
    return f"{mean(kept):.3f} ({min(kept):.3f}–{max(kept):.3f})"


def picture() -> str:
    """Accuracy against number of pairs, with and without unshared texts, as SVG."""
    lines = []
    for kind, words in (("unpaired", "+ unshared texts"), ("alone", "alone")):
        for source, target in SHOWN:
            points = [
                (float(n), mean(r["first"] for r in found if "first" in r))
                for (s, t, n), found in runs(kind).items()
                if (s, t) == (source, target) and n and any("first" in r for r in found)
            ]
            lines.append(Line(f"{source} to {target}, pairs {words}", None, points))
    description = (
        "Share of 1,000 texts whose partner is the nearest to their image, against the number of"
        " pairs. "
        + "; ".join(
            f"{x.name}: {x.points[0][1]:.2f} with {x.points[0][0]:.0f} to"
            f" {x.points[-1][1]:.2f} with {x.points[-1][0]:.0f}"
            for x in lines
        )
    )
    axes = Picture(
        "Few pairs",
        description,
        "pairs",
        "partner first",
        (0, 4),
        (0, 1),
        linear=True,
        key=(362, 345),
    )
    return svg(axes, lines)


TABLES = (few_pairs, few_pairs_alone, few_pairs_refused, few_pairs_differ, few_pairs_peer,
          few_pairs_scale)  # fmt: skip

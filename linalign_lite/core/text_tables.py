"""Tables of plain text for terminals."""

from collections.abc import Sequence

from linalign_lite.errors import printable

Pairs = list[tuple[str, object]]


def pair_lines(rows: Sequence[tuple[str, object]]) -> list[str]:
    """Format names and values as two aligned columns."""
    width = max((len(name) for name, _ in rows), default=0)
    return [f"{name:<{width}}  {printable(str(value))}" for name, value in rows]


def column_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Format rows as columns, the first left-aligned, the others right-aligned.

    The first row holds the headings.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
        )
        for row in rows
    ]

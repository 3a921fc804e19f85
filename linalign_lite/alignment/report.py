"""Base of the reports of fits: their form in map files and in JSON."""

import math
from dataclasses import asdict
from typing import Any


class Report:
    """Base of the reports of fits, which are data classes with warnings and a curve."""

    warnings: tuple[str, ...]
    curve: tuple[tuple[float, ...], ...]

    def as_card(self) -> dict[str, Any]:
        """Return the report for the map file: all but the curve, NaN and infinities as null."""
        fields: dict[str, Any] = asdict(self)  # type: ignore[call-overload]
        del fields["curve"]
        card = {name: _finite(value) for name, value in fields.items()}
        return {**card, "warnings": list(self.warnings)}

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON, NaN and infinities as null."""
        return {**self.as_card(), "curve": [list(map(_finite, row)) for row in self.curve]}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value

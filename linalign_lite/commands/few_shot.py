"""fit --with-few: how the command asks the library, and what it says of the answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from linalign_lite.commands.console import Console
from linalign_lite.errors import InputError

if TYPE_CHECKING:
    from linalign_lite.alignment.few_shot.report import FewReport
    from linalign_lite.core.affine_map import AffineMap
    from linalign_lite.core.head import Head
    from linalign_lite.core.hidden_states import HiddenStates

Sides = tuple["HiddenStates", "HiddenStates"]
Rows = list[tuple[str, object]]


def require_few_options(
    few: tuple[Path, Path] | None, weight: str | None, method: str, checkpoint: Path | None
) -> None:
    """What goes with --with-few, and what does not."""
    if few is None:
        if weight is not None:
            raise InputError("--few-weight goes with --with-few FEW_SOURCE FEW_TARGET")
        return
    if method != "ridge":
        raise InputError("--with-few is for ridge or kl", got=method, hint="leave --method out")
    if checkpoint is not None:
        raise InputError("--with-few keeps no checkpoint", hint="leave --checkpoint out")


def fit_few(
    console: Console, public: Sides, few: Sides, served: Head | None, **options: Any
) -> tuple[AffineMap, dict[str, Any], Rows]:
    from linalign_lite.alignment.few_shot.fitting import fit_with_few

    with console.descent() as watch:
        affine, report = fit_with_few(*public, *few, head=served, watch=watch, **options)
    console.warn(report.warnings)
    outputs = "" if report.n_outputs is None else f", {report.n_outputs} outputs"
    start = "" if report.start_penalty is None else f", start's {report.start_penalty:.3g}"
    what = "1 − R²" if served is None else "divergence"
    rows: Rows = [
        ("objective", f"{report.objective}, penalty {report.penalty:.3g}{start}"),
        ("dimensions", f"{report.d_source} to {report.d_target}{outputs}"),
        ("rows", f"{report.n_public} public, {report.n_few} few"),
        ("the few weigh", _weight(report)),
        (f"held-out {what}", _loss(report.loss, report.loss_error)),
    ]
    sides = {
        "public alone": (report.public_loss, report.public_error),
        "few alone": (report.few_loss, report.few_error),
        "both": (report.both_loss, report.both_error),
    }
    rows += [(f"  {k}", _loss(v, e)) for k, (v, e) in sides.items() if v is not None]
    return affine, {**report.as_card(), "curve": _finite(report)}, rows


def _weight(report: FewReport) -> str:
    if report.few_weight == 0:
        return "nothing: public texts alone"
    if report.few_weight == float("inf"):
        return "everything: the few alone"
    return f"{report.few_weight:g} times what the public texts do"


def _loss(loss: float, error: float | None) -> str:
    return f"{loss:.4f} ± {error:.4f}"


def _finite(report: FewReport) -> list[list[float | None]]:
    """The curve for JSON, which knows no infinity."""
    return [[v if abs(v) < float("inf") else None for v in row] for row in report.curve]

# python3 -m venv isotrieve && isotrieve/bin/pip install isotrieve==0.4.0
"""isotrieve's maps, with its own defaults: arrays in a .npz in, mapped arrays in a .npz out.

    isotrieve/bin/python isotrieve_maps.py IN OUT

IN: x, y (states of the same texts), queries, documents (of the source). OUT: "ridge queries",
"ridge documents" and so on, in the target's space. Prints the verdict of its gate as one JSON
object: a ridge map of 80 % of the texts, judged on the rest.
"""

from __future__ import annotations

import json
import sys

import numpy as np
from isotrieve import RidgeMapping
from isotrieve.mapping.linear import LowRankAffineMapping
from isotrieve.quality.gate import QualityGate


def main() -> None:
    given, made = sys.argv[1:]
    with np.load(given) as arrays:
        x, y, queries, documents = (arrays[k] for k in ("x", "y", "queries", "documents"))
    found = {}
    for name, kind in (("ridge", RidgeMapping), ("low-rank", LowRankAffineMapping)):
        mapping = kind().fit(x, y)
        found[f"{name} queries"] = mapping.transform(queries)
        found[f"{name} documents"] = mapping.transform(documents)
    np.savez(made, **found)
    order = np.random.default_rng(0).permutation(len(x))
    some, rest = np.split(order, [len(x) * 4 // 5])
    report = QualityGate().evaluate(RidgeMapping().fit(x[some], y[some]), x[rest], y[rest])
    low, high = report.prediction_interval
    print(json.dumps({"verdict": str(report.verdict.value), "low": float(low), "high": float(high),
                      "predicted": float(report.predicted_retention)}))  # fmt: skip


if __name__ == "__main__":
    main()

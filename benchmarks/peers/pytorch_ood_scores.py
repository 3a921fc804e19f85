"""Write pytorch-ood's scores of generated states: tests/golden/pytorch_ood.npz.

    python -m venv ood && ood/bin/pip install pytorch-ood scikit-learn
    ood/bin/python benchmarks/peers/pytorch_ood_scores.py tests/golden/pytorch_ood.npz

tests/heads/ood/test_peers.py compares the detectors with the file, so that tests need no torch.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np

D, CLASSES, K, COMPONENTS = 12, 5, 3, 4


class StandIn(MetaPathFinder, Loader):
    """pytorch-ood imports torchvision for data sets and models; detectors of features need none."""

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        mine = name.split(".", maxsplit=1)[0] == "torchvision"
        return ModuleSpec(name, self, is_package=True) if mine else None

    def create_module(self, spec: ModuleSpec) -> Any:
        made = Anything(spec.name)
        made.__path__ = []
        return made

    def exec_module(self, module: ModuleType) -> None:
        pass


class Anything(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def main(path: str) -> None:
    if importlib.util.find_spec("torchvision") is None:
        sys.meta_path.append(StandIn())
    import torch
    from pytorch_ood import __version__
    from pytorch_ood.detector import KNN, RMD, EnergyBased, Mahalanobis, MaxLogit, MaxSoftmax, ViM
    from pytorch_ood.metrics import OODMetrics

    rng = np.random.default_rng(11)
    ids = np.arange(300) % CLASSES
    centres = rng.normal(size=(CLASSES, D)) * 2
    mix = rng.normal(size=(D, D))
    states = (centres[ids] + rng.normal(size=(300, D)) @ mix / 3 + 1).astype(np.float32)
    queries = (rng.normal(size=(40, D)) * 2 + 1).astype(np.float32)
    weight = rng.normal(size=(CLASSES, D)).astype(np.float32)
    bias = rng.normal(size=CLASSES).astype(np.float32)
    x, y, q = torch.tensor(states).double(), torch.tensor(ids), torch.tensor(queries).double()
    w, b = torch.tensor(weight), torch.tensor(bias)
    scores = q.float() @ w.T + b
    found = {
        "energy": EnergyBased.score(scores, t=1.0),
        "energy_t2": EnergyBased.score(scores, t=2.0),
        "msp": MaxSoftmax.score(scores),
        "max_logit": MaxLogit.score(scores),
        "mahalanobis": Mahalanobis(None).fit_features(x.float(), y).predict_features(q.float()),
        "relative": RMD(None).fit_features(x.float(), y).predict_features(q.float()),
        "knn": KNN(None, k=K).fit_features(x, y).predict_features(q),
        "vim": ViM(None, COMPONENTS, w, b).fit_features(x, y).predict_features(q),
    }
    metrics = OODMetrics()
    inlying, outlying = rng.normal(size=200).round(1), rng.normal(1, 1, size=120).round(1)
    both = torch.tensor(np.concatenate([inlying, outlying]))
    metrics.update(both, torch.tensor(np.repeat([1, -1], [200, 120])))
    figures = {k: float(v) for k, v in metrics.compute().items()}
    print(__version__, figures)
    np.savez(path, states=states, ids=ids, queries=queries, weight=weight, bias=bias,
             inlying=inlying, outlying=outlying,
             auroc=figures["AUROC"], fpr=figures["FPR95TPR"],
             **{k: v.double().numpy() for k, v in found.items()})  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])

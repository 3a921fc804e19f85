"""Classification: each model's head on its own states, and on every other's, through every map."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from linalign_lite.alignment.few_shot.fitting import fit_with_few
from linalign_lite.alignment.least_squares import fit
from linalign_lite.core.affine_map import AffineMap
from linalign_lite.heads.evaluation import evaluate
from linalign_lite.survey.artefacts import PUBLIC, Workshop, bare
from linalign_lite.survey.jobs import Job, Jobs, described
from linalign_lite.survey.results import ClassRow, NativeRow


@dataclass(frozen=True)
class Way:
    """How a map is fitted: on which texts, with which objective."""

    texts: str  # "public", "few", "public+few" or "all"
    objective: str
    few: int = 0

    @property
    def name(self) -> str:
        number = f" ({self.few})" if self.few else ""
        return f"{self.objective}, {self.texts}{number}"


def ways(shop: Workshop) -> list[Way]:
    """Every way, the cheap ones first."""
    found = [Way("public", "ridge"), Way("all", "ridge")]
    for n in shop.config.few:
        found += [Way("few", "ridge", n), Way("public+few", "ridge", n)]
    if "kl" in shop.config.objectives:
        found += [Way("public", "kl"), Way("all", "kl")]
        found += [Way("public+few", "kl", n) for n in shop.config.few]
    return found


def mapped(shop: Workshop, source: str, target: str, data: str, way: Way) -> AffineMap:
    """The map of one way, made now or earlier."""
    if way.texts in {"public", "all"}:
        texts = PUBLIC if way.texts == "public" else data
        if way.objective == "ridge":
            return shop.ridge(source, target, texts)
        return shop.kl(source, target, texts, data)
    inputs = described(
        shop, (source, target), few=way.few, way=way.name,
        texts=shop.marks(shop.config.public, shop.data[data].train),
    )  # fmt: skip
    step = f"{way.name}: {source} to {target}, {data}"
    return shop.shelf.map(step, inputs, lambda: _few(shop, source, target, data, way))


def _few(shop: Workshop, source: str, target: str, data: str, way: Way) -> AffineMap:
    rows, seed = shop.few(data, way.few), shop.config.seed
    x, y = (bare(shop.train(m, data).rows(rows)) for m in (source, target))
    if way.texts == "few":
        return fit(x, y, seed=seed)[0]
    head = shop.head(target, data) if way.objective == "kl" else None
    public = shop.public(source), shop.public(target)
    return fit_with_few(*public, x, y, head=head, seed=seed)[0]


def class_jobs(shop: Workshop) -> Jobs:
    for data in shop.data:
        for model in shop.cards:
            texts = shop.marks(shop.data[data].train, shop.data[data].test)
            yield Job(
                f"native: {model}, {data}",
                "native",
                NativeRow,
                described(shop, (model,), texts=texts),
                partial(_native, shop, model, data),
            )
    for data in shop.data:
        texts = shop.marks(shop.config.public, shop.data[data].train, shop.data[data].test)
        for way in ways(shop):
            for source, target in shop.config.pairs():
                yield Job(
                    f"{source} to {target}, {data}: {way.name}",
                    "classification",
                    ClassRow,
                    described(shop, (source, target), texts=texts, way=way.name),
                    partial(_classified, shop, source, target, data, way),
                )


def _native(shop: Workshop, model: str, data: str) -> list[NativeRow]:
    found = shop.native(model, data).accuracy
    row = NativeRow(model, data, found.value, found.low, found.high)
    return [row]


def _classified(shop: Workshop, source: str, target: str, data: str, way: Way) -> list[ClassRow]:
    affine = mapped(shop, source, target, data, way)
    found = evaluate(shop.head(target, data), shop.test(source, data), affine).accuracy
    own = min(shop.native(m, data).accuracy.value for m in (source, target))
    public = 0 if way.texts in {"all", "few"} else len(shop.public(source))
    inside = len(shop.train(source, data)) if way.texts == "all" else way.few
    row = ClassRow(
        source, target, data, way.texts, way.objective, public, inside,
        found.value, found.low, found.high, found.value / own if own else 0.0,
    )  # fmt: skip
    return [row]

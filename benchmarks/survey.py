"""The whole survey of several models: its findings and its time.

    python benchmarks/survey.py OUT [--models small|published] [--quick]

20,000 public sentences, CLINC150, TREC, SST-2 and AG News: every ordered pair, ridge and kl maps
from public, few and in-distribution texts, every detector, generation. From text, in OUT, which
keeps all results: a stopped run resumes. "small": MiniLM and two story models; then once more the
least-squares part alone, with states and heads from before and everything else made again; writes
results/survey.json. "published": SmolLM2-135M, Gemma 3 270M, EmbeddingGemma and MiniLM, with parts
of SST-2 and AG News, kl maps from public and from in-distribution texts alone; writes
results/survey_published.json. OUT gets the page and results.json.
Needs the models and data (LINALIGN_SHARED, LINALIGN_REAL) and the extra `bench`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import PROMPTS, PUBLISHED, data, exported, publish

from linalign_lite.survey.config import DataSet, GenerationTexts, SurveyConfig, TextFile
from linalign_lite.survey.report import to_markdown, write_report
from linalign_lite.survey.results import Results
from linalign_lite.survey.results_file import save_results
from linalign_lite.survey.run import CACHE, run_survey

SMALL = {"MiniLM": "all-minilm-l6-v2", "656K": "tinystories-656k", "260K": "stories260k"}
LIMITS = {"sst2_train": 2_500, "agnews_train5600": 2_000, "agnews_test2000": 1_000}
PUBLIC = 20_000
FEW_PUBLISHED = (64, 128)
SETS = {
    "CLINC150": ("clinc150_train", "clinc150_test", "clinc150_oos_test"),
    "TREC": ("trec_train", "trec_test", None),
    "SST-2": ("sst2_train", "sst2_test", "agnews_test2000"),
    "AG News": ("agnews_train5600", "agnews_test2000", "sst2_test"),
}
STORY_END = "<|endoftext|>"
# of the lower of the two native accuracies, through kl maps from the data's own texts
KEPT, KEPT_PUBLISHED = 0.95, 0.97


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", choices=("small", "published"), default="small")
    parser.add_argument("--quick", action="store_true", help="little of everything, to try it out")
    args = parser.parse_args()
    published = args.models == "published"
    config = of_published(args.quick) if published else of_small(args.quick)
    results, whole = timed_survey(config, args.out)
    if published:
        results = with_few(config, results, args.out)
    save_results(args.out / "results.json", results)
    (args.out / "results.md").write_text(to_markdown(results), encoding="utf-8")
    write_report(args.out / "report.html", results)
    counts = FEW_PUBLISHED if published else config.few
    found = {"whole": whole, "public": results.public, "counts": counts,
             "retention": retention(results, KEPT_PUBLISHED if published else KEPT),
             "few": few(results, counts), "best": best(results)}  # fmt: skip
    if published:
        found |= claims(results)
    else:
        found["least_squares"] = least_squares(config, args.out)
    if args.quick:
        print(json.dumps(found, indent=2))
    else:
        publish("survey_published" if published else "survey", found)


def of_small(quick: bool) -> SurveyConfig:
    def stories(split: str, limit: int) -> TextFile:
        return TextFile(Path(data(f"tinystories_{split}.txt")), limit if quick else None, STORY_END)

    return SurveyConfig(
        models={short: exported(name) for short, name in SMALL.items()},
        public=reading("generic_sentences", 1_000 if quick else PUBLIC),
        data=data_sets({}, quick),
        generation=GenerationTexts(stories("train", 60), stories("valid", 20)),
        title="Three real models",
    )


def of_published(quick: bool) -> SurveyConfig:
    return SurveyConfig(
        models={short: exported(name) for short, name in PUBLISHED.items()},
        public=reading("generic_sentences", 1_000 if quick else PUBLIC),
        data=data_sets(LIMITS, quick),
        pooling="model",
        prompts=PROMPTS,
        few=(),
        title="Four published models",
    )


def with_few(config: SurveyConfig, results: Results, out: Path) -> Results:
    """The results with ridge maps from few texts: kl maps from few take as long as all others."""
    ridge = dataclasses.replace(
        config, objectives=("ridge",), tasks=("classification",), few=FEW_PUBLISHED
    )
    more, _ = timed_survey(ridge, out)
    some = (r for r in more.classification if r.n_few and "few" in r.texts)
    return dataclasses.replace(results, classification=(*results.classification, *some))


def data_sets(limits: Mapping[str, int], quick: bool) -> tuple[DataSet, ...]:
    def part(name: str) -> TextFile:
        return reading(name, 600 if quick else limits.get(name))

    return tuple(
        DataSet(name, part(train), part(test), part(beyond) if beyond else None)
        for name, (train, test, beyond) in SETS.items()
    )


def reading(name: str, limit: int | None) -> TextFile:
    return TextFile(Path(data(f"{name}.jsonl")), limit)


def timed_survey(config: SurveyConfig, out: Path) -> tuple[Results, dict[str, float]]:
    began, cpu = time.perf_counter(), time.process_time()
    last = [""]

    def progress(done: int, count: int) -> None:
        seconds = time.perf_counter() - began
        print(f"{seconds:7.1f} s  {done} of {count}  {last[0]}", file=sys.stderr)

    results = run_survey(
        config, out, progress=progress, tell=lambda what: last.__setitem__(0, what)
    )
    return results, {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "from_before": sum(t.cached for t in results.times),
        "steps": len(results.times),
    }


def least_squares(config: SurveyConfig, out: Path) -> dict[str, float]:
    """Similarity, ridge maps of every kind, and curves, from kept states and heads alone."""
    part = dataclasses.replace(
        config, objectives=("ridge",), tasks=("classification", "similarity"), generation=None
    )
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / CACHE
        cache.mkdir()
        for marker in (out / CACHE).glob("*.json"):
            step = json.loads(marker.read_text())["step"]
            if " reads " in step or step.startswith("head of "):
                for file in (out / CACHE).glob(f"{marker.stem}.*"):
                    shutil.copy(file, cache)
        return timed_survey(part, Path(folder))[1]


def retention(results: Results, enough: float) -> list[dict[str, Any]]:
    """Every pair and data set, through maps from the data's own texts."""
    rows = []
    for data_set in results.data:
        for source, target in results.pairs():
            mine = {
                r.objective: r
                for r in results.classification
                if (r.source, r.target, r.data, r.texts) == (source, target, data_set.name, "all")
            }
            rows.append({
                "source": source, "target": target, "data": data_set.name,
                **{o: r.accuracy for o, r in mine.items()},
                **{f"{o}_keeps": r.retention for o, r in mine.items()},
                "enough": mine["kl"].retention >= enough,
            })  # fmt: skip
    return rows


def few(results: Results, counts: Sequence[int]) -> list[dict[str, Any]]:
    """Accuracy through maps from public texts, from a few of the data set's own, and from both."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for r in results.classification:
        row = found.setdefault((r.data, r.source, r.target), {})
        name = f"{r.objective} {r.texts}" + (f" {r.n_few}" if "few" in r.texts else "")
        row[name] = {"accuracy": r.accuracy, "low": r.low, "high": r.high}
    native = {(r.model, r.data): r.accuracy for r in results.native}
    return [
        {"data": d, "source": s, "target": t, "native_target": native[t, d],
         "native_source": native[s, d], "few": list(counts), "maps": row}
        for (d, s, t), row in found.items()
    ]  # fmt: skip


def claims(results: Results) -> dict[str, Any]:
    """Return what else the paper's claims are held against (docs/REPLICATION.md)."""
    return {
        "similarity": [
            {"source": r.source, "target": r.target, "texts": r.texts, "measure": r.measure,
             "value": r.value, "null": r.null}
            for r in results.similarity if r.measure in {"cka", "cka_debiased", "r2"}
        ],
        "energy": [
            {"source": r.source, "target": r.target, "data": r.data, "texts": r.texts,
             "objective": r.objective, "auroc": r.auroc}
            for r in results.ood if r.detector == "energy"
        ],
        "curves": [dataclasses.asdict(r) for r in results.curves if r.kind == "size"],
        "tokenizers": [dataclasses.asdict(r) for r in results.tokenizers],
    }  # fmt: skip


def best(results: Results) -> list[dict[str, Any]]:
    """The best detector of every model and pair on CLINC150."""
    rows: dict[tuple[str, ...], Any] = {}
    for r in results.ood:
        key = (r.source, r.target, r.data, r.texts, r.objective)
        if key not in rows or r.auroc > rows[key].auroc:
            rows[key] = r
    names = ("source", "target", "data", "texts", "objective", "detector", "auroc", "fpr95")
    return [{n: getattr(r, n) for n in names} for r in rows.values()]


if __name__ == "__main__":
    main()

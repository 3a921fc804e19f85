"""Retrieval section: search of collections across models, beside the target's own."""

from collections.abc import Iterator

from linalign_lite.survey.report import content
from linalign_lite.survey.report.analysis import texts_label
from linalign_lite.survey.report.columns import RETRIEVAL
from linalign_lite.survey.report.figures import ReportBuilder
from linalign_lite.survey.results import names


def retrieval(builder: ReportBuilder) -> Iterator[content.Block]:
    yield (
        "The source's queries, mapped, search the target's documents; or the target's queries "
        "search the source's documents, mapped. nDCG@10 with its bootstrap interval (95 %); framed "
        "in pictures: the target's own search. Overlap is with its first 10 documents."
    )
    for name in names(builder.results.retrieval, "collection"):
        rows = [x for x in builder.results.retrieval if x.collection == name]
        yield content.Heading(name)
        native = {x.target: x.native for x in rows}
        by_map: dict[str, dict[tuple[str, str], float]] = {}
        for x in rows:
            by_map.setdefault(f"{x.mapped}, {texts_label(x.texts)}", {})[x.pair] = x.ndcg
        grids = {f"mapped {key}": builder.matrix(of, native) for key, of in by_map.items()}
        yield builder.heat_maps(grids, f"nDCG on {name}, ", f"nDCG@10 on {name}; framed: native.")
        yield builder.table(f"search of {name}", RETRIEVAL, rows, collapsed=True)

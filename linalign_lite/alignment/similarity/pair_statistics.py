"""All measures of one pair of models, from the statistics of each and the products of both."""

from collections.abc import Collection

import numpy as np

from linalign_lite.alignment.moments import Float64
from linalign_lite.alignment.similarity import cross_validation
from linalign_lite.alignment.similarity.measures import Ints, hsic, mean_correlation, overlap
from linalign_lite.alignment.similarity.model_statistics import ModelStatistics
from linalign_lite.alignment.similarity.results import DIRECTED

MeasureValues = dict[str, float]


def pair_measures(
    x: ModelStatistics, y: ModelStatistics, wanted: Collection[str], order: Ints | None = None
) -> tuple[MeasureValues, MeasureValues]:
    """Compute every wanted measure, and the directed ones from y to x.

    Row i of x is paired with row order[i] of y. ``order`` must keep every row in its fold, or y's
    own products would change with it.
    """
    forth: MeasureValues = {}
    back: MeasureValues = {}
    if "mutual_knn" in wanted:
        forth["mutual_knn"] = overlap(x.neighbours, y.neighbours, order)
    if not set(wanted) - {"mutual_knn"}:
        return forth, back
    cross = _cross_products(x, y, order)
    total = cross.sum(axis=0)
    square = float(np.einsum("ij,ij->", total, total))
    if "cka" in wanted:
        forth["cka"] = square / (x.gram_norm * y.gram_norm)
    if "cka_debiased" in wanted:
        a, b = x.own.squares, y.own.squares
        squares = float(a @ (b if order is None else b[order]))
        both = hsic(square, squares, float(a.sum()), float(b.sum()), len(x))
        forth["cka_debiased"] = both / float(np.sqrt(x.hsic * y.hsic))
    if "svcca" in wanted:
        forth["svcca"] = mean_correlation(x.whitener, total, y.whitener)
    if not set(wanted) & set(DIRECTED):
        return forth, back
    products = cross_validation.splits(x, y, cross)
    there = cross_validation.fit_maps(x, y, *products)
    home = cross_validation.fit_maps(y, x, *(p.transpose(0, 2, 1) for p in products))
    if "r2" in wanted:
        forth["r2"], back["r2"] = there.r2, home.r2
    if "cosine" in wanted:
        inverse = None if order is None else np.argsort(order)
        forth["cosine"] = cross_validation.held_out_cosine(there, order)
        back["cosine"] = cross_validation.held_out_cosine(home, inverse)
    if "cycle" in wanted:
        forth["cycle"] = cross_validation.cycle_error(there, home)
        back["cycle"] = cross_validation.cycle_error(home, there)
    return forth, back


def _cross_products(x: ModelStatistics, y: ModelStatistics, order: Ints | None) -> Float64:
    """Compute XᵀY of each fold about the means of all rows, (folds, d_x, d_y), in one pass."""
    found = np.zeros((len(x.folds), x.states.shape[1], y.states.shape[1]))
    for i, part in x.parts():
        found[i] += x.rows(part).T @ y.rows(part if order is None else order[part])
    return found

"""Dense oracles: each measure as its paper writes it, with n × n matrices where it has them."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestNeighbors

from linalign_lite import fit
from linalign_lite.alignment.moments import fold_index


def centred(x):
    x = np.asarray(x, dtype=np.float64)
    return x - x.mean(axis=0)


def cka(x, y):
    """Kornblith et al. 2019, eq. 1 and 4: HSIC of centred n × n kernels."""
    h = np.eye(len(x)) - 1 / len(x)
    k, l = (h @ (a.astype(np.float64) @ a.T.astype(np.float64)) @ h for a in (x, y))  # noqa: E741
    return np.trace(k @ l) / np.sqrt(np.trace(k @ k) * np.trace(l @ l))


def unbiased_hsic(k, l):  # noqa: E741
    """Song et al. 2012, eq. 5, literally."""
    n = len(k)
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    one = np.ones(n)
    middle = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ l) + middle - 2 / (n - 2) * (one @ k @ l @ one)) / (n * (n - 3))


def cka_debiased(x, y):
    k, l = (a.astype(np.float64) @ a.T.astype(np.float64) for a in (x, y))  # noqa: E741
    return unbiased_hsic(k, l) / np.sqrt(unbiased_hsic(k, k) * unbiased_hsic(l, l))


def svcca(x, y, share=0.99):
    """Raghu et al. 2017: truncated SVD of each side, then CCA, by angles between subspaces."""
    from scipy.linalg import subspace_angles

    sides = []
    for a in (centred(x), centred(y)):
        u, s, _ = np.linalg.svd(a, full_matrices=False)
        held = np.cumsum(s**2) / (s**2).sum()
        kept = min(int((held < share - 1e-12).sum()) + 1, int((s > 1e-7 * s[0]).sum()))
        sides.append(u[:, :kept])
    return np.cos(subspace_angles(*sides)).mean()


def mutual_knn(x, y, k=10):
    near = []
    for a in (x, y):
        found = NearestNeighbors(n_neighbors=k, metric="cosine").fit(a.astype(np.float64))
        near.append(found.kneighbors(return_distance=False))
    return np.mean([len({*a} & {*b}) / k for a, b in zip(*near, strict=True)])


def held_out_maps(x, y, folds, seed):
    """(held-out rows, the map of the others) of each fold: scikit-learn at the penalty of `fit`."""
    penalty = fit(x, y, folds=folds, seed=seed)[1].penalty
    index = fold_index(np.arange(len(x)), folds, seed)
    for i in range(folds):
        inside = index != i
        a = x[inside].astype(np.float64)
        unit = (centred(a) ** 2).sum() / x.shape[1]
        ridge = Ridge(alpha=penalty * unit).fit(a, y[inside].astype(np.float64))
        yield np.flatnonzero(~inside), ridge.predict


def r2(x, y, folds=5, seed=0):
    return fit(x, y, folds=folds, seed=seed)[1].held_out_r2


def cosine(x, y, folds=5, seed=0):
    found = []
    for rows, predict in held_out_maps(x, y, folds, seed):
        guess, truth = predict(x[rows].astype(np.float64)), y[rows].astype(np.float64)
        norms = np.linalg.norm(guess, axis=1) * np.linalg.norm(truth, axis=1)
        found += list((guess * truth).sum(axis=1) / norms)
    return np.mean(found)


def cycle(x, y, folds=5, seed=0):
    error = 0.0
    ways = zip(held_out_maps(x, y, folds, seed), held_out_maps(y, x, folds, seed), strict=True)
    for (rows, there), (_, home) in ways:
        truth = x[rows].astype(np.float64)
        error += ((home(there(truth)) - truth) ** 2).sum()
    return error / (centred(x) ** 2).sum()


ORACLES = {f.__name__: f for f in (cka, cka_debiased, svcca, mutual_knn, r2, cosine, cycle)}

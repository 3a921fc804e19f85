"""States of two made models of the same texts: clusters of several sizes, turned and shifted."""

from dataclasses import dataclass

import numpy as np

LATENT = 20


@dataclass(frozen=True, eq=False)
class TwoModels:
    """Rows of source and target: unshared ones, and pairs to fit on and to judge by."""

    source: np.ndarray
    target: np.ndarray
    pairs: tuple[np.ndarray, np.ndarray]
    judged: tuple[np.ndarray, np.ndarray]


def two_models(n: int = 1500, pairs: int = 16, seed: int = 0, d: tuple[int, int] = (28, 36)):
    """Mixtures in LATENT dimensions; each model turns them, shifts them and adds noise."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(40, LATENT)) * np.linspace(1.5, 0.5, LATENT)
    shares = rng.dirichlet(np.full(40, 0.5))

    def texts(count: int) -> np.ndarray:
        which = rng.choice(40, count, p=shares)
        return centres[which] + 0.4 * rng.standard_t(4, size=(count, LATENT))

    turns = [np.linalg.qr(rng.normal(size=(width, LATENT)))[0].T for width in d]
    shifts = [3 * rng.normal(size=width) for width in d]

    def read(latent: np.ndarray, side: int) -> np.ndarray:
        states = latent @ turns[side] + shifts[side]
        return (states + 0.03 * rng.normal(size=states.shape)).astype(np.float32)

    shared, judged = texts(pairs), texts(300)
    return TwoModels(
        read(texts(n), 0), read(texts(n), 1),
        (read(shared, 0), read(shared, 1)), (read(judged, 0), read(judged, 1)),
    )  # fmt: skip


def partner_first(affine, judged: tuple[np.ndarray, np.ndarray]) -> float:
    """Count how often the partner is the nearest of all judged target rows, by centred cosine."""
    x, y = affine(judged[0]), judged[1]
    mean = y.mean(axis=0)
    x, y = ((z - mean) / np.linalg.norm(z - mean, axis=1, keepdims=True) for z in (x, y))
    return float(((x @ y.T).argmax(axis=1) == np.arange(len(x))).mean())

"""Indexes and keys that tests of encrypted search share."""

import functools

import numpy as np

import linalign_lite as la
from linalign_lite.encrypt.key_proof import proven
from linalign_lite.retrieval.index.building import build_index
from linalign_lite.retrieval.index.reading import open_index
from linalign_lite.vectors.source import Batch, VectorInfo, VectorSource

SPACE = la.Space(24, "ab" * 32, "model", "mean")


class Made(VectorSource):
    def __init__(self, vectors, space=None, ids=None):
        self.vectors, self.own = vectors.astype(np.float32), ids
        kind = "texts" if ids else "rows"
        self.info = VectorInfo(space or la.Space(vectors.shape[1]), len(vectors), ids=kind)

    def batches(self, rows=4096, after=""):
        for start in range(0, len(self.vectors), rows):
            some = self.vectors[start : start + rows]
            numbers = range(start, start + len(some))
            yield Batch(tuple(self.own[i] if self.own else str(i) for i in numbers), some)

    def current(self):
        return self.info


def index_of(folder, vectors, **options):
    space, ids = options.pop("space", None), options.pop("ids", None)
    build_index(Made(vectors, space, ids), folder, **options)
    return open_index(folder)


def documents_in(folder):
    """An index of 5,000 named documents."""
    vectors = np.random.default_rng(3).normal(size=(5000, 24))
    return index_of(folder, vectors, space=SPACE, ids=[f"doc {i}" for i in range(5000)])


@functools.cache
def made_keys(parameters):
    """Secret and public key, and a public one that is proven."""
    secret, public = la.keygen(parameters)
    return secret, public, proven(secret, public) if parameters.private else public

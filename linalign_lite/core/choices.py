"""Values of options that have a fixed list, and defaults, for the library and for the command line.

This module imports only `enum`, so that `--help` needs no NumPy.
"""

from enum import StrEnum

# default folds of cross-validations
MAP_FOLDS = 5
HEAD_FOLDS = 3
SEARCH_FOLDS = 3  # of a map for search, whose trials are many

# embedding: all modules of a sentence-transformers model; tokens: one state per token
TextPooling = StrEnum("TextPooling", "mean last cls max weighted-mean mean-sqrt embedding")
Pooling = StrEnum("Pooling", "mean last cls max weighted-mean mean-sqrt embedding tokens")
TextFormat = StrEnum("TextFormat", "auto txt jsonl csv parquet")
FloatDtype = StrEnum("FloatDtype", "fp32 fp16")  # of stored states
WeightDtype = StrEnum("WeightDtype", "fp32 fp16 int8")  # of weights in an ONNX file or model folder
PairingRule = StrEnum("PairingRule", "exact after")
MapMethod = StrEnum("MapMethod", "ridge lstsq procrustes")
MomentsMethod = StrEnum("MomentsMethod", "ridge procrustes")  # that need only moments
HeadMethod = StrEnum("HeadMethod", "auto ridge logistic")
Demo = StrEnum(
    "Demo", {"classifier": "classifier", "search": "search", "fit_private": "fit-private"}
)
Profile = StrEnum("Profile", "private trusted")  # of encrypted scoring
ExportTask = StrEnum("ExportTask", "auto embed generate")
MapForm = StrEnum("MapForm", "onnx dense faiss")  # of a map for other libraries
ArtefactKind = StrEnum("ArtefactKind", "map head")  # of linear ONNX files


Objective = StrEnum(  # of a map's fit
    "Objective", {"least_squares": "least-squares", "kl": "kl", "retrieval": "retrieval"}
)
Metric = StrEnum("Metric", "cosine dot")  # of a search
SearchMetric = StrEnum("SearchMetric", "auto cosine dot")
MigrationWay = StrEnum("MigrationWay", "queries documents both")  # which side is mapped
SearchLibrary = StrEnum("SearchLibrary", "auto numpy faiss")
Use = StrEnum("Use", "queries documents")  # of a map in a search: what is mapped
DetectorMethod = StrEnum(
    "DetectorMethod",
    "auto energy msp max-logit mahalanobis relative-mahalanobis cosine knn whitened-knn vim",
)


def values_of(choices: type[StrEnum]) -> tuple[str, ...]:
    """Values of ``choices`` except "auto", as plain strings."""
    return tuple(c.value for c in choices if c.value != "auto")

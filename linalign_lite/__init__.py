"""linalign-lite: affine maps between language models' hidden states, and encrypted scoring.

The names of `__all__` are the public API. Importing this package loads nothing else: each name's
module is imported when the name is first used, and onnxruntime, tokenizers, SciPy and TenSEAL by
the first call that needs them. `__init__.pyi` lists the same names for type checkers.
"""

from importlib import import_module
from typing import Any

from linalign_lite.version import __version__

_NAMES = {  # module: its public names
    "alignment.few_shot.joint_fit": "fit_with_few",
    "alignment.few_shot.report": "FewReport",
    "alignment.kl.checkpoint": "Checkpoint",
    "alignment.kl.divergence_fit": "fit_kl",
    "alignment.kl.objective": "Teaching",
    "alignment.kl.report": "KlReport",
    "alignment.least_squares": "FitReport fit",
    "alignment.moments_io": "load_moments save_moments",
    "alignment.paired_moments": "PairedMoments fit_paired put_together",
    "alignment.similarity.comparison": "compare compare_all",
    "alignment.similarity.results": "Similarities Similarity",
    "alignment.streaming.measure": "measure_pair measure_shards",
    "alignment.unpaired.report": "UnpairedReport",
    "alignment.unpaired.unpaired_fit": "fit_unpaired",
    "bundle.reading": "BundleInfo install_bundle verify_bundle",
    "core.signing": "SigningKey VerifyingKey",
    "bundle.writing": "create_bundle",
    "core.affine_map": "AffineMap",
    "core.dense_module": "from_dense to_dense",
    "core.faiss_transform": "from_faiss to_faiss",
    "core.head": "Head",
    "core.hidden_states": "HiddenStates",
    "core.serialization": "load_head load_map load_states",
    "core.shards.states_folder": "StatesFolder open_states",
    "core.space": "Space",
    "core.token_alignment": "pair_states",
    "encrypt.client": "Client",
    "encrypt.scores": "Scores",
    "service.remote_provider": "RemoteProvider",
    "encrypt.keys": "PublicKey SecretKey keygen",
    "encrypt.fitting.answer": "answer_fit",
    "encrypt.fitting.finish": "finish_fit",
    "encrypt.fitting.offer": "offer_fit",
    "encrypt.messages": "Query Response",
    "encrypt.packing": "Layout",
    "encrypt.parameters": "PRIVATE Parameters TRUSTED",
    "encrypt.provider": "Provider",
    "encrypt.budgets.budget": "Budget",
    "errors": "AlignmentError BudgetError FormatError InputError LinalignError MismatchError "
    "MissingExtraError OutputExistsError ParityError PrecisionError SignatureError",
    "extraction.pipeline": "extract extract_to",
    "extraction.session": "Model load_model",
    "extraction.texts": "Texts read_texts",
    "extraction.tokenizer_compatibility": "Compatibility check_compatibility",
    "generation.evaluation.judge_map": "Judgement judge",
    "generation.hybrid": "Generation generate",
    "heads.evaluation": "Evaluation evaluate",
    "heads.ood.detector": "Detector",
    "heads.ood.detector_training": "fit_detector",
    "heads.ood.model_selection": "DetectorComparison compare_detectors",
    "heads.ood.report": "DetectionReport evaluate_detector report_scores",
    "heads.ood.detectors": "outlyingness",
    "heads.ood.serialization": "load_detector",
    "heads.serialization": "load save",
    "heads.training": "HeadReport train_head",
    "onnx.artefact": "Artefact",
    "onnx.export_linear": "to_onnx",
    "onnx.fuse_model": "fuse",
    "onnx.import_linear": "from_onnx",
    "retrieval.choosing": "fit_retrieval",
    "retrieval.fit_report": "RetrievalFitReport",
    "retrieval.collection": "Collection read_collection",
    "retrieval.evaluation": "CollectionStates RetrievalReport evaluate_retrieval",
    "retrieval.index.building": "build_index",
    "retrieval.index.clusters": "NearestClusters row_numbers",
    "retrieval.index.reading": "Index open_index",
    "retrieval.search": "search",
    "survey.report": "to_markdown write_report",
    "survey.results": "Results",
    "survey.results_file": "load_results",
    "vectors.locations": "create_vectors open_vectors",
    "vectors.mapping": "apply_map",
    "vectors.reading": "read_aligned read_states",
    "vectors.source": "Batch VectorInfo VectorSink VectorSource",
    "vectors.switching": "switch_vectors",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = ["__version__", *sorted(_MODULES)]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

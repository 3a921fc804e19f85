"""linalign-lite: affine maps between language models' hidden states, and encrypted scoring.

The names below are the public API. Importing this package loads nothing else: each name's module
is imported when the name is first used, and onnxruntime, tokenizers, SciPy and TenSEAL by the first
call that needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from linalign_lite.version import __version__

if TYPE_CHECKING:
    from linalign_lite.alignment.few_shot.fitting import fit_with_few
    from linalign_lite.alignment.few_shot.report import FewReport
    from linalign_lite.alignment.kl.checkpoint import Checkpoint
    from linalign_lite.alignment.kl.fitting import fit_kl
    from linalign_lite.alignment.kl.objective import Teaching
    from linalign_lite.alignment.kl.report import KlReport
    from linalign_lite.alignment.least_squares import FitReport, fit
    from linalign_lite.alignment.moments_io import load_moments, save_moments
    from linalign_lite.alignment.paired_moments import PairedMoments, fit_paired, put_together
    from linalign_lite.alignment.similarity.comparison import compare, compare_all
    from linalign_lite.alignment.similarity.results import Similarities, Similarity
    from linalign_lite.alignment.streaming.measure import measure_pair, measure_shards
    from linalign_lite.bundle.reading import BundleInfo, install_bundle, verify_bundle
    from linalign_lite.bundle.signing import SigningKey, VerifyingKey
    from linalign_lite.bundle.writing import create_bundle
    from linalign_lite.core.affine_map import AffineMap
    from linalign_lite.core.head import Head
    from linalign_lite.core.hidden_states import HiddenStates
    from linalign_lite.core.serialization import load_head, load_map, load_states
    from linalign_lite.core.shards.states_folder import StatesFolder, open_states
    from linalign_lite.core.space import Space
    from linalign_lite.core.token_alignment import pair_states
    from linalign_lite.encrypt.client import Client, Scores
    from linalign_lite.encrypt.keys import PublicKey, SecretKey, keygen
    from linalign_lite.encrypt.messages import Query, Response
    from linalign_lite.encrypt.packing import Layout
    from linalign_lite.encrypt.parameters import PRIVATE, TRUSTED, Parameters
    from linalign_lite.encrypt.provider import Provider
    from linalign_lite.encrypt.query_budget import Budget
    from linalign_lite.encrypt.zero_pool import Zeros
    from linalign_lite.errors import (
        BudgetError,
        FormatError,
        InputError,
        LinalignError,
        MismatchError,
        MissingExtraError,
        OutputExistsError,
        ParityError,
        PrecisionError,
        SignatureError,
    )
    from linalign_lite.extraction.pipeline import extract, extract_to
    from linalign_lite.extraction.session import Model, load_model
    from linalign_lite.extraction.texts import Texts, read_texts
    from linalign_lite.extraction.tokenizer_compatibility import (
        Compatibility,
        check_compatibility,
    )
    from linalign_lite.generation.evaluation.judge_map import Judgement, judge
    from linalign_lite.generation.hybrid import Generation, generate
    from linalign_lite.heads.evaluation import Evaluation, evaluate
    from linalign_lite.heads.ood.detector import Detector
    from linalign_lite.heads.ood.fitting import fit_detector
    from linalign_lite.heads.ood.model_selection import DetectorComparison, compare_detectors
    from linalign_lite.heads.ood.report import DetectionReport, evaluate_detector, report_scores
    from linalign_lite.heads.ood.scores import outlyingness
    from linalign_lite.heads.ood.serialization import load_detector
    from linalign_lite.heads.serialization import load, save
    from linalign_lite.heads.training import HeadReport, train_head
    from linalign_lite.onnx.artefact import Artefact
    from linalign_lite.onnx.export_linear import to_onnx
    from linalign_lite.onnx.fuse_model import fuse
    from linalign_lite.onnx.import_linear import from_onnx
    from linalign_lite.report import to_markdown, write_report
    from linalign_lite.survey.results import Results
    from linalign_lite.survey.results_file import load_results

__all__ = [
    "PRIVATE",
    "TRUSTED",
    "AffineMap",
    "Artefact",
    "Budget",
    "BudgetError",
    "BundleInfo",
    "Checkpoint",
    "Client",
    "Compatibility",
    "DetectionReport",
    "Detector",
    "DetectorComparison",
    "Evaluation",
    "FewReport",
    "FitReport",
    "FormatError",
    "Generation",
    "Head",
    "HeadReport",
    "HiddenStates",
    "InputError",
    "Judgement",
    "KlReport",
    "Layout",
    "LinalignError",
    "MismatchError",
    "MissingExtraError",
    "Model",
    "OutputExistsError",
    "PairedMoments",
    "Parameters",
    "ParityError",
    "PrecisionError",
    "Provider",
    "PublicKey",
    "Query",
    "Response",
    "Results",
    "Scores",
    "SecretKey",
    "SignatureError",
    "SigningKey",
    "Similarities",
    "Similarity",
    "Space",
    "StatesFolder",
    "Teaching",
    "Texts",
    "VerifyingKey",
    "Zeros",
    "__version__",
    "check_compatibility",
    "compare",
    "compare_all",
    "compare_detectors",
    "create_bundle",
    "evaluate",
    "evaluate_detector",
    "extract",
    "extract_to",
    "fit",
    "fit_detector",
    "fit_kl",
    "fit_paired",
    "fit_with_few",
    "from_onnx",
    "fuse",
    "generate",
    "install_bundle",
    "judge",
    "keygen",
    "load",
    "load_detector",
    "load_head",
    "load_map",
    "load_model",
    "load_moments",
    "load_results",
    "load_states",
    "measure_pair",
    "measure_shards",
    "open_states",
    "outlyingness",
    "pair_states",
    "put_together",
    "read_texts",
    "report_scores",
    "save",
    "save_moments",
    "to_markdown",
    "to_onnx",
    "train_head",
    "verify_bundle",
    "write_report",
]

# where each public name lives; the imports above say the same to type checkers
_HOMES = {
    "PRIVATE": "encrypt.parameters",
    "TRUSTED": "encrypt.parameters",
    "AffineMap": "core.affine_map",
    "Artefact": "onnx.artefact",
    "Budget": "encrypt.query_budget",
    "BudgetError": "errors",
    "BundleInfo": "bundle.reading",
    "Checkpoint": "alignment.kl.checkpoint",
    "Client": "encrypt.client",
    "Compatibility": "extraction.tokenizer_compatibility",
    "DetectionReport": "heads.ood.report",
    "Detector": "heads.ood.detector",
    "DetectorComparison": "heads.ood.model_selection",
    "Evaluation": "heads.evaluation",
    "FewReport": "alignment.few_shot.report",
    "FitReport": "alignment.least_squares",
    "FormatError": "errors",
    "Generation": "generation.hybrid",
    "Head": "core.head",
    "HeadReport": "heads.training",
    "HiddenStates": "core.hidden_states",
    "InputError": "errors",
    "Judgement": "generation.evaluation.judge_map",
    "KlReport": "alignment.kl.report",
    "Layout": "encrypt.packing",
    "LinalignError": "errors",
    "MismatchError": "errors",
    "MissingExtraError": "errors",
    "Model": "extraction.session",
    "OutputExistsError": "errors",
    "PairedMoments": "alignment.paired_moments",
    "Parameters": "encrypt.parameters",
    "ParityError": "errors",
    "PrecisionError": "errors",
    "Provider": "encrypt.provider",
    "PublicKey": "encrypt.keys",
    "Query": "encrypt.messages",
    "Response": "encrypt.messages",
    "Results": "survey.results",
    "Scores": "encrypt.client",
    "SecretKey": "encrypt.keys",
    "SignatureError": "errors",
    "SigningKey": "bundle.signing",
    "Similarities": "alignment.similarity.results",
    "Similarity": "alignment.similarity.results",
    "Space": "core.space",
    "StatesFolder": "core.shards.states_folder",
    "Teaching": "alignment.kl.objective",
    "Texts": "extraction.texts",
    "VerifyingKey": "bundle.signing",
    "Zeros": "encrypt.zero_pool",
    "check_compatibility": "extraction.tokenizer_compatibility",
    "compare": "alignment.similarity.comparison",
    "compare_all": "alignment.similarity.comparison",
    "compare_detectors": "heads.ood.model_selection",
    "create_bundle": "bundle.writing",
    "evaluate": "heads.evaluation",
    "evaluate_detector": "heads.ood.report",
    "extract": "extraction.pipeline",
    "extract_to": "extraction.pipeline",
    "fit": "alignment.least_squares",
    "fit_detector": "heads.ood.fitting",
    "fit_kl": "alignment.kl.fitting",
    "fit_paired": "alignment.paired_moments",
    "fit_with_few": "alignment.few_shot.fitting",
    "from_onnx": "onnx.import_linear",
    "fuse": "onnx.fuse_model",
    "generate": "generation.hybrid",
    "install_bundle": "bundle.reading",
    "judge": "generation.evaluation.judge_map",
    "keygen": "encrypt.keys",
    "load": "heads.serialization",
    "load_detector": "heads.ood.serialization",
    "load_head": "core.serialization",
    "load_map": "core.serialization",
    "load_model": "extraction.session",
    "load_moments": "alignment.moments_io",
    "load_results": "survey.results_file",
    "load_states": "core.serialization",
    "measure_pair": "alignment.streaming.measure",
    "measure_shards": "alignment.streaming.measure",
    "open_states": "core.shards.states_folder",
    "outlyingness": "heads.ood.scores",
    "pair_states": "core.token_alignment",
    "put_together": "alignment.paired_moments",
    "read_texts": "extraction.texts",
    "report_scores": "heads.ood.report",
    "save": "heads.serialization",
    "save_moments": "alignment.moments_io",
    "to_markdown": "report",
    "to_onnx": "onnx.export_linear",
    "train_head": "heads.training",
    "verify_bundle": "bundle.reading",
    "write_report": "report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

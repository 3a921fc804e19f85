"""scikit-learn's own checks of every estimator, and the library's results through them.

The folder is not called `sklearn`: `tests` is on the path, where it would hide scikit-learn.
"""

from __future__ import annotations

import cProfile
import pickle
import pstats
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks
from support import aligned_states

import linalign_lite as la
from linalign_lite.core.choices import DetectorMethod, HeadMethod, MapMethod, values_of
from linalign_lite.heads.ood.detectors import NEEDS_HEAD
from linalign_lite.sklearn import AffineAligner, HeadClassifier, OutlierDetector

ESTIMATORS = [
    *(AffineAligner(method=m) for m in values_of(MapMethod)),
    *(HeadClassifier(method=m) for m in HeadMethod.__members__),
    *(OutlierDetector(method=m) for m in ("mahalanobis", "knn", "whitened-knn")),
    *(OutlierDetector(method=m) for m in ("cosine", "energy", "vim")),
]
NO_LABELS = "the check fits outlier detectors without labels, and this score is of classes"


def without_labels(estimator):
    """Checks that fail: they give no labels to detectors whose tags say that they need some."""
    if not isinstance(estimator, OutlierDetector) or not get_tags(estimator).target_tags.required:
        return {}
    return dict.fromkeys(("check_outliers_fit_predict", "check_outliers_train"), NO_LABELS)


@pytest.mark.filterwarnings("ignore:y is one column")  # many checks give a transformer labels
@parametrize_with_checks(ESTIMATORS, expected_failed_checks=without_labels)
def test_estimators_keep_the_conventions_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.fixture
def pair():
    x, y = aligned_states(np.random.default_rng(0), 300, 9, 12)
    return x.states, y.states


@pytest.fixture
def labelled():
    rng = np.random.default_rng(1)
    ids = rng.integers(3, size=240)
    X = rng.normal(size=(240, 6)) + rng.normal(size=(3, 6))[ids] * 3
    return X.astype(np.float32), np.array(["cat", "dog", "ox"])[ids]


@pytest.mark.parametrize("method", values_of(MapMethod))
def test_an_aligner_is_the_librarys_fit(pair, method):
    X, Y = pair
    aligner = AffineAligner(method=method, folds=4, random_state=3).fit(X, Y)
    affine, report = la.fit(X, Y, method=method, folds=4, seed=3)
    assert np.array_equal(aligner.affine_.weight, affine.weight)
    assert np.array_equal(aligner.affine_.bias, affine.bias)
    assert aligner.report_ == report
    assert np.array_equal(aligner.transform(X), affine(X))
    residual, spread = Y - affine(X), Y - Y.mean(axis=0)
    expected = 1 - (residual.astype(float) ** 2).sum() / (spread.astype(float) ** 2).sum()
    assert aligner.score(X, Y) == pytest.approx(expected, abs=1e-6)
    assert aligner.score(X, Y) == r2_score(Y, affine(X), multioutput="variance_weighted")


def calls(function):
    """Number of calls of each function of the library and of each decomposition and product."""
    profile = cProfile.Profile()
    profile.runcall(function)
    counted = {}
    for (path, _, name), (_, n, *_) in pstats.Stats(profile).stats.items():
        mine = "linalign_lite" in path and "linalign_lite/sklearn" not in path
        if mine or "linalg" in path or name in ("dgemm", "dsyrk"):
            counted[path, name] = n
    return counted


def test_an_aligner_does_no_more_work_than_the_librarys_fit(pair):
    X, Y = pair
    la.fit(X, Y), AffineAligner().fit(X, Y)  # what is imported on first use
    own, through = calls(lambda: la.fit(X, Y)), calls(lambda: AffineAligner().fit(X, Y))
    assert own
    assert own == {k: n for k, n in through.items() if k in own}
    more = {k: n for k, n in through.items() if k not in own}
    assert not more, more


def test_the_inverse_exists_where_the_weight_has_full_column_rank(pair):
    X, Y = pair
    aligner = AffineAligner()
    assert not hasattr(aligner, "inverse_transform")  # before a fit
    aligner.fit(X, Y)
    assert np.allclose(aligner.inverse_transform(aligner.transform(X)), X, atol=1e-3)
    best = np.linalg.lstsq(
        aligner.affine_.weight.astype(float), (Y - aligner.affine_.bias).T.astype(float), rcond=None
    )[0].T
    assert np.allclose(aligner.inverse_transform(Y), best, atol=1e-4)
    with pytest.raises(ValueError, match="the map gives 12"):
        aligner.inverse_transform(X)
    assert not hasattr(AffineAligner().fit(Y, X), "inverse_transform")  # to fewer dimensions
    twice = np.hstack([X, X[:, :2]])  # equal columns: the weights of two pairs are equal
    assert not hasattr(AffineAligner(penalty=0.1).fit(twice, Y), "inverse_transform")
    scaled = make_pipeline(StandardScaler(), AffineAligner()).fit(X, Y)
    assert np.allclose(scaled.inverse_transform(scaled.transform(X)), X, atol=1e-3)


def test_an_aligner_for_a_head_is_fit_kl(pair):
    X, Y = pair
    labels = np.where(Y[:, 0] > np.median(Y[:, 0]), "high", "low")
    head, _ = la.train_head(Y, labels)
    aligner = clone(AffineAligner(head=head)).fit(X, Y)
    affine, report = la.fit_kl(X, Y, head)
    assert np.array_equal(aligner.affine_.weight, affine.weight)
    assert isinstance(aligner.report_, la.KlReport)
    assert aligner.report_.as_dict() == report.as_dict()
    with pytest.raises(ValueError, match="starts from ridge"):
        AffineAligner(head=head, method="lstsq").fit(X, Y)


def test_pipelines_and_searches(pair):
    X, Y = pair
    search = GridSearchCV(
        make_pipeline(Normalizer(), AffineAligner()),
        {"affinealigner__method": ["ridge", "procrustes"], "affinealigner__folds": [3]},
        cv=3,
    ).fit(X, Y)
    assert search.best_params_["affinealigner__method"] == "ridge"
    assert search.best_score_ > 0.5
    penalties = {"penalty": [1e-3, 1e3]}
    assert GridSearchCV(AffineAligner(), penalties, cv=3).fit(X, Y).best_params_ == {
        "penalty": 1e-3
    }


def test_bad_input_raises_value_errors_that_say_what_is_wrong(pair):
    X, Y = pair
    for options, said in (
        ({"method": "magic"}, "ridge, lstsq, procrustes"),
        ({"penalty": -1.0}, "penalty"),
        ({"folds": 1000}, "folds"),
    ):
        with pytest.raises(ValueError, match=said):
            AffineAligner(**options).fit(X, Y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        AffineAligner().fit(X, Y[1:])
    with pytest.raises(ValueError, match="NaN"):
        AffineAligner().fit(np.where(X > 0, np.nan, X), Y)
    for estimator in ESTIMATORS[::3]:
        with pytest.raises(TypeError, match=r"[Ss]parse"):
            clone(estimator).fit(csr_matrix(X), np.arange(len(X)) % 3)
    for contamination in (0.0, 0.6, np.nan):
        with pytest.raises(ValueError, match="contamination"):
            OutlierDetector(contamination=contamination).fit(X)
    with pytest.raises(ValueError, match="fraction"):
        OutlierDetector(validation_fraction=1.0).fit(X)
    with pytest.raises(ValueError, match="one label"):
        HeadClassifier().fit(X, np.zeros(len(X)))
    with pytest.raises(ValueError, match="printable"):
        HeadClassifier().fit(X, np.where(X[:, 0] > X[0, 0], "a\n", "b"))


def test_data_frames_keep_their_columns(pair, labelled):
    X, Y = pair
    frame = pd.DataFrame(X, columns=[f"x{i}" for i in range(X.shape[1])])
    aligner = AffineAligner().fit(frame, pd.DataFrame(Y))
    assert list(aligner.feature_names_in_) == list(frame)
    assert np.array_equal(aligner.transform(frame), AffineAligner().fit(X, Y).transform(X))
    with pytest.raises(ValueError, match="feature names"):
        aligner.transform(frame.rename(columns={"x0": "other"}))
    out = aligner.set_output(transform="pandas").transform(frame)
    assert list(out)[:2] == ["affinealigner0", "affinealigner1"]
    X, y = labelled
    classifier = HeadClassifier().fit(pd.DataFrame(X), pd.Series(y, dtype="category"))
    assert list(classifier.classes_) == ["cat", "dog", "ox"]
    assert np.array_equal(
        classifier.predict(pd.DataFrame(X)), HeadClassifier().fit(X, y).predict(X)
    )


@pytest.mark.parametrize("method", HeadMethod.__members__)
def test_a_classifier_is_the_librarys_head(labelled, method):
    X, y = labelled
    classifier = HeadClassifier(method=method, random_state=2).fit(X, y)
    head, report = la.train_head(X, y, method=method, seed=2)
    assert np.array_equal(classifier.head_.weight, head.weight)
    assert classifier.head_.labels == head.labels == ("cat", "dog", "ox")
    assert classifier.report_ == report
    assert np.array_equal(classifier.decision_function(X), head(X))
    assert np.array_equal(classifier.predict(X), np.array(head.labels)[head.predict(X)])
    assert classifier.score(X, y) == la.evaluate(head, X, y).accuracy.value
    chosen = classifier.predict_proba(X)[np.arange(len(y)), np.unique(y, return_inverse=True)[1]]
    assert np.log(chosen).mean() > -0.5  # calibrated: far above −log 3
    if report.method == "logistic":
        assert classifier.temperature_ == 1


def test_labels_keep_their_type(labelled):
    X, y = labelled
    numbers = np.unique(y, return_inverse=True)[1] * 10 - 10
    classifier = HeadClassifier(method="ridge").fit(X, numbers)
    assert classifier.predict(X).dtype == numbers.dtype
    assert classifier.head_.labels == ("-10", "0", "10")
    two = HeadClassifier(method="ridge").fit(X, numbers > 0)
    assert two.predict(X).dtype == bool
    assert two.decision_function(X).shape == (len(X),)
    scores = two.head_(X)
    assert np.array_equal(two.decision_function(X), scores[:, 1] - scores[:, 0])
    assert cross_val_score(HeadClassifier(), X, numbers, scoring="neg_log_loss").mean() > -0.5


@pytest.mark.parametrize("method", values_of(DetectorMethod))
def test_a_detector_is_the_librarys(labelled, method):
    X, y = labelled
    made = OutlierDetector(method=method, contamination=0.1).fit(X, y)
    states = la.HiddenStates(X, labels=y)
    head = la.train_head(states)[0] if method in NEEDS_HEAD else None
    detector = la.fit_detector(states, method=method, head=head)
    assert np.array_equal(made.score_samples(X), -detector.scores(X))
    assert (made.predict(X) == -1).sum() == 24
    assert np.array_equal(made.predict(X) == -1, made.detector_.outlying(X))
    assert made.detector_.tpr == 0.9
    assert np.array_equal(made.fit_predict(X, y), made.predict(X))
    if head is not None:
        given = OutlierDetector(method=method, head=head).fit(X, y)
        assert np.array_equal(given.score_samples(X), made.score_samples(X))


def test_a_threshold_of_held_out_rows_keeps_the_share_of_new_rows():
    rng = np.random.default_rng(4)
    X, new = rng.normal(size=(200, 80)), rng.normal(size=(4000, 80))
    seen = OutlierDetector(contamination=0.1).fit(X).predict(new)
    held_out = OutlierDetector(contamination=0.1, validation_fraction=0.5).fit(X).predict(new)
    assert (seen == -1).mean() > 0.15
    assert (held_out == -1).mean() < 0.14
    with pytest.raises(ValueError, match="too few in-distribution"):
        OutlierDetector(validation_fraction=0.01).fit(X)


def test_files_of_others_become_fitted_estimators(tmp_path, pair, labelled):
    X, Y = pair
    la.save(tmp_path / "a.map.npz", AffineAligner().fit(X, Y).affine_)
    affine = la.load_map(tmp_path / "a.map.npz")
    aligner = AffineAligner.from_map(affine)
    assert np.array_equal(aligner.transform(X), affine(X))
    assert np.allclose(aligner.inverse_transform(aligner.transform(X)), X, atol=1e-3)
    with pytest.raises(ValueError, match="features"):
        aligner.transform(Y)
    X, y = labelled
    fitted = HeadClassifier().fit(X, y)
    la.save(tmp_path / "a.head.npz", fitted.head_)
    classifier = HeadClassifier.from_head(la.load_head(tmp_path / "a.head.npz"))
    assert np.array_equal(classifier.predict(X), fitted.predict(X))
    with pytest.raises(la.InputError, match="no classifier"):
        HeadClassifier.from_head(la.Head(np.eye(3), np.zeros(3)))
    detector = OutlierDetector(method="knn").fit(X)
    la.save(tmp_path / "a.ood.npz", detector.detector_)
    again = OutlierDetector.from_detector(la.load_detector(tmp_path / "a.ood.npz"))
    assert np.array_equal(again.predict(X), detector.predict(X))
    with pytest.raises(la.InputError, match="no threshold"):
        OutlierDetector.from_detector(la.fit_detector(la.HiddenStates(X)))
    both = make_pipeline(AffineAligner.from_map(la.AffineMap(np.eye(6), np.ones(6))), classifier)
    assert np.array_equal(both.predict(X), classifier.predict(X + 1))


def test_states_keep_their_spaces(pair, labelled):
    X, Y = (
        la.HiddenStates(x, la.Space(x.shape[1], name=n)) for x, n in zip(pair, "ab", strict=True)
    )
    aligner = AffineAligner().fit(X, Y)
    assert (aligner.affine_.source, aligner.affine_.target) == (X.space, Y.space)
    assert np.array_equal(aligner.transform(X), aligner.transform(X.states))
    assert aligner.score(X, Y) == aligner.score(X.states, Y.states)
    other = la.HiddenStates(X.states, la.Space(9, name="c"))
    with pytest.raises(ValueError, match="AffineAligner does not read these states: got c"):
        aligner.transform(other)
    texts = la.HiddenStates(Y.states, Y.space, "ab"), la.HiddenStates(X.states, X.space, "cd")
    with pytest.raises(ValueError, match="different texts"):
        AffineAligner().fit(*texts)
    X, y = labelled
    states = la.HiddenStates(X, la.Space(6, name="a"))
    for estimator in (HeadClassifier(), OutlierDetector()):
        estimator.fit(states, y)
        assert np.array_equal(estimator.predict(states), clone(estimator).fit(X, y).predict(X))
        with pytest.raises(ValueError, match="does not read these states: got b"):
            estimator.predict(la.HiddenStates(X, la.Space(6, name="b")))
    assert HeadClassifier().fit(states, y).head_.space == states.space
    cosine = OutlierDetector(method="cosine")
    with_labels = la.HiddenStates(X, labels=y)
    assert np.array_equal(cosine.fit(with_labels).predict(X), cosine.fit(X, y).predict(X))


def test_users_may_pickle_and_clone_fitted_estimators(pair, labelled):
    X, Y = pair
    aligner = pickle.loads(pickle.dumps(AffineAligner(penalty=0.5).fit(X, Y)))
    assert np.array_equal(aligner.transform(X), AffineAligner(penalty=0.5).fit(X, Y).transform(X))
    assert hasattr(aligner, "inverse_transform")
    assert not hasattr(clone(aligner), "affine_")
    X, y = labelled
    head = HeadClassifier().fit(X, y).head_
    copy = clone(OutlierDetector(method="energy", head=head))
    assert np.array_equal(copy.head.weight, head.weight)


def test_without_scikit_learn_the_extra_is_named():
    code = """import sys
sys.modules["sklearn"] = None
import linalign_lite
try:
    import linalign_lite.sklearn
except linalign_lite.MissingExtraError as e:
    print(e)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'linalign-lite[sklearn]'" in done.stdout


def test_a_pipeline_that_gives_a_map_labels_is_warned(pair):
    X, _ = pair
    labels = np.arange(len(X)) % 3
    with pytest.warns(UserWarning, match="the map leads into one dimension"):
        make_pipeline(AffineAligner(), HeadClassifier()).fit(X, labels)


@pytest.mark.parametrize("missing", [None, pd.NA])
def test_a_classifier_names_the_row_without_a_label(missing):
    labels = pd.Series(["a", "b", "c"] * 10, dtype="object")
    labels[4] = missing
    with pytest.raises(ValueError, match="1 of 30 rows have no label: got row 4"):
        HeadClassifier().fit(np.eye(30), labels)


def test_a_fitted_classifier_stands_for_its_head(pair):
    X, Y = pair
    classifier = HeadClassifier().fit(Y, (Y[:, 0] > np.median(Y[:, 0])).astype(int))
    aligner = AffineAligner(head=classifier).fit(X, Y)
    expected = AffineAligner(head=classifier.head_).fit(X, Y)
    assert np.array_equal(aligner.transform(X), expected.transform(X))

"""A fit by encrypted cross-products: the map of the clear, its parts by oracles, its files."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_fit import PROVEN, PUBLIC, SECRET, Exchange, states, two_models

from linalign_lite import (
    FormatError,
    HiddenStates,
    InputError,
    LinalignError,
    MismatchError,
    OutputExistsError,
    PublicKey,
    SecretKey,
    answer_fit,
    finish_fit,
    fit,
    keygen,
    load_map,
    offer_fit,
    save,
)
from linalign_lite.alignment.moments import assign_folds, folded
from linalign_lite.bundle.file_types import detect_kind
from linalign_lite.core.hidden_states import text_digest
from linalign_lite.core.shards.states_folder import open_states, write_shards
from linalign_lite.encrypt.fitting import checkpoint, kept, offer, products
from linalign_lite.encrypt.fitting.cost import predict_fit
from linalign_lite.encrypt.fitting.descriptions import SCALE, AnswerInfo, flooding
from linalign_lite.encrypt.fitting.finish import decrypt_moments, solve_fit
from linalign_lite.encrypt.fitting.kept import KeptOffer, choose_columns, measure_source
from linalign_lite.encrypt.fitting.offer import key_files, write_offer
from linalign_lite.encrypt.fitting.products import FoldSums, TargetMoments
from linalign_lite.encrypt.fitting.shape import FitShape, choose_folds, count_distinct
from linalign_lite.encrypt.fitting.sources import TextStates
from linalign_lite.encrypt.key_proof import proven
from linalign_lite.encrypt.noise_flooding import HIDING_BITS, product_noise
from linalign_lite.encrypt.parameters import PRIVATE, TRUSTED
from linalign_lite.storage.npz import load_npz, save_npz


@pytest.fixture(scope="module")
def models():
    return two_models()


@pytest.fixture(scope="module")
def done(models, tmp_path_factory):
    exchange = Exchange(tmp_path_factory.mktemp("fit"))
    exchange.offer(models[0])
    exchange.answer(models[1])
    return exchange


# --- the result ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "d_source", "d_target", "options"),
    [
        (400, 16, 12, {}),
        (203, 7, 5, {"folds": 3, "seed": 4}),  # nothing divides anything
        (300, 1, 3, {}),
        (2400, 12, 4, {"folds": 2}),
    ],
)
def test_the_map_is_that_of_the_clear(tmp_path, n, d_source, d_target, options):
    x, y = two_models(n, d_source, d_target)
    exchange = Exchange(tmp_path)
    info = exchange.offer(x, **options)
    exchange.answer(y)
    found, report = exchange.finish()
    clear, expected = fit(x, y, folds=info.folds, seed=info.seed)
    assert report.penalty == expected.penalty
    assert report.held_out_r2 == pytest.approx(expected.held_out_r2, abs=1e-4)
    assert (report.rank, report.n, report.folds) == (expected.rank, n, info.folds)
    predictions = [m.apply(x.states).astype(float) for m in (found, clear)]
    gap = np.linalg.norm(predictions[0] - predictions[1])
    assert gap < 1e-3 * np.linalg.norm(predictions[1] - predictions[1].mean(axis=0))
    assert (found.source, found.target) == (clear.source, clear.target)
    assert found.card["text_digest"] == x.text_digest


def test_no_map_is_found_where_there_is_none(tmp_path, models):
    """The answer carries the provider's states: with others, unrelated, R² is none."""
    x, _ = models
    unrelated = states(np.random.default_rng(9).normal(size=(len(x), 12)))
    exchange = Exchange(tmp_path)
    exchange.offer(x)
    exchange.answer(unrelated)
    assert exchange.finish()[1].held_out_r2 < 0.05


def test_directions_without_variance_are_left_out(tmp_path):
    x, y = two_models(d_source=8)
    doubled = states(np.hstack([x.states, x.states[:, :4]]))
    exchange = Exchange(tmp_path)
    assert exchange.offer(doubled).columns == 8
    exchange.answer(y)
    found, report = exchange.finish()
    _, expected = fit(doubled, y, folds=report.folds)
    assert report.held_out_r2 == pytest.approx(expected.held_out_r2, abs=1e-4)
    assert report.rank == 8
    assert found.weight.shape == (12, 12)


def test_fewer_columns_fit_the_directions_of_largest_variance(tmp_path, models):
    x, y = models
    exchange = Exchange(tmp_path)
    exchange.offer(x, columns=5)
    exchange.answer(y)
    found, report = exchange.finish()
    centred = x.states.astype(float) - x.states.mean(axis=0)
    largest = np.linalg.svd(centred, full_matrices=False)[2][:5]
    assert report.rank == 5
    assert np.linalg.norm(
        found.weight @ (np.eye(16) - largest.T @ largest)
    ) < 0.02 * np.linalg.norm(found.weight)
    reduced = states(centred @ largest.T)
    _, expected = fit(reduced, y, folds=report.folds)
    assert report.held_out_r2 == pytest.approx(expected.held_out_r2, abs=1e-2)


def test_procrustes_and_a_given_penalty(done, models):
    for options, most in (({"method": "procrustes"}, 1e-2), ({"penalty": 0.1}, 1e-3)):
        found, report = done.finish(**options)
        clear, expected = fit(*models, folds=report.folds, **options)
        assert report.held_out_r2 == pytest.approx(expected.held_out_r2, abs=1e-4)
        gap = np.linalg.norm(found.weight - clear.weight)
        assert gap < most * np.linalg.norm(clear.weight)


def test_decrypted_moments_are_within_the_stated_error(done, models):
    x, y = models
    found = decrypt_moments(done.answer_at, done.kept())
    exact = folded(x.states, y.states, len(found.moments.folds)).folds
    mine_kept = KeptOffer.load(done.kept_at).columns
    info = header(done.answer_at)
    for mine, true in zip(found.moments.folds, exact, strict=True):
        assert mine.n == true.n
        np.testing.assert_allclose(mine.mean_y, true.mean_y, rtol=1e-9)
        np.testing.assert_allclose(mine.yy, true.yy, rtol=1e-9)
        np.testing.assert_allclose(mine.xx, true.xx, rtol=1e-9, atol=1e-9 * true.xx.max())
        gap = np.diag(mine_kept.scale) @ mine_kept.basis.T @ (mine.xy - true.xy) / np.sqrt(true.yy)
        assert 0 < np.abs(gap).max() <= info.error


def header(path):
    from linalign_lite.encrypt.wire import Kind, open_framed

    with open_framed(path, Kind.ANSWER) as reader:
        return AnswerInfo.from_header(reader.header, reader.name)


def test_states_in_folders_and_blocks_of_dimensions(tmp_path, models, monkeypatch):
    """Shards of unlike sizes on either side, and several passes over the offer."""
    x, y = models
    for name, s, cuts in (("x", x, (0, 150, 151, 400)), ("y", y, (0, 399, 400))):
        parts = [
            dataclasses.replace(s, states=s.states[a:b], n_texts=b - a)
            for a, b in itertools.pairwise(cuts)
        ]
        write_shards(tmp_path / name, parts, text_digest=s.text_digest)
    monkeypatch.setattr(products, "MAX_BYTES", 5 * 8 * 2 * 5 * (4096 + 16))
    exchange = Exchange(tmp_path)
    info, seen = exchange.offer(open_states(tmp_path / "x")), []
    assert predict_fit(info.shape, 12).passes == 3
    exchange.answer(open_states(tmp_path / "y"), progress=seen.append)
    assert sum(seen) == 3 * 400
    _, report = exchange.finish()
    _, expected = fit(x, y, folds=report.folds)
    assert report.held_out_r2 == pytest.approx(expected.held_out_r2, abs=1e-4)


def test_columns_that_do_not_vary_are_mapped_to_their_mean(tmp_path, models):
    x, y = models
    flat = y.states.copy()
    flat[:, 3] = 7
    exchange = Exchange(tmp_path)
    exchange.offer(x)
    exchange.answer(states(flat))
    found, _ = exchange.finish()
    assert np.abs(found.weight[3]).max() < 1e-12
    assert found.bias[3] == pytest.approx(7)


# --- its parts, by oracles ----------------------------------------------------------------------


@given(st.data())
def test_chunks_depend_on_the_texts_alone(data):
    n = data.draw(st.integers(2, 60))
    folds = data.draw(st.integers(2, min(n, 6)))
    shape = FitShape(n, folds, data.draw(st.integers(0, 9)), data.draw(st.integers(1, 16)), 16)
    rows = np.arange(n, dtype=np.float32)[:, None]
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, n), max_size=4))), n]
    pieces = [rows[a:b] for a, b in itertools.pairwise(cuts)]
    found = [(k, chunk[:, 0].astype(int).tolist()) for k, chunk in shape.chunked(pieces)]
    assert found == [(k, c[:, 0].astype(int).tolist()) for k, c in shape.chunked([rows])]
    assert len(found) == shape.chunks
    for k in range(folds):
        texts = [t for fold, chunk in found if fold == k for t in chunk]
        assert texts == np.flatnonzero(assign_folds(n, folds, shape.seed) == k).tolist()
        assert len(texts) == shape.sizes[k]
    assert all(len(chunk) <= shape.width for _, chunk in found)
    for wrong in ([rows[:-1]], [rows, rows[:1]]):
        with pytest.raises(MismatchError, match="rows than texts"):
            list(shape.chunked(wrong))


@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(1, 40))
def test_sums_are_products_in_the_ring(seed, columns, texts):
    rng = np.random.default_rng(seed)
    degree, primes, dims = 16, (97, PRIVATE.data_primes[0]), 3
    shape = FitShape(2 * texts, 2, 0, columns, degree)
    sums = FoldSums(shape, primes, dims)
    expected = np.zeros((dims, 2, len(primes), degree), dtype=object)
    for start in range(0, texts, shape.width):
        count = min(shape.width, texts - start)
        second = np.stack([rng.integers(0, p, degree, np.uint64) for p in primes])
        first = np.stack([rng.integers(0, p, shape.sent, np.uint64) for p in primes])
        weights = rng.integers(-(2**17), 2**17, (count, dims))
        sums.add((first, second), weights.astype(float))
        both = np.zeros((2, len(primes), degree), dtype=object)
        both[0, :, : shape.sent], both[1] = first.astype(object), second.astype(object)
        for i in range(count):
            for k in range(degree):  # X^(−i·m) times coefficient k
                at, sign = k - i * columns, 1
                if at < 0:
                    at, sign = at + degree, -1
                for j in range(dims):
                    expected[j, :, :, at] += sign * int(weights[i, j]) * both[:, :, k]
    sums.flush()
    moduli = np.array(primes, dtype=object)[:, None]
    assert (sums.second == expected[:, 1] % moduli).all()
    assert (sums.first == expected[:, 0, :, :columns] % moduli).all()


def test_a_providers_integers_have_the_norm_that_the_scale_is_for(rng):
    y = rng.normal(size=(50, 4)) * [1e-9, 1, 1e6, 0] + [0, 9, -3e6, 5]
    mean, squares = y.mean(axis=0), ((y - y.mean(axis=0)) ** 2).sum(axis=0)
    whole = TargetMoments(mean[None], squares[None]).encoded(0, y, slice(0, 4))
    np.testing.assert_allclose(np.linalg.norm(whole[:, :3], axis=0), 2.0**SCALE, rtol=1e-3)
    assert not whole[:, 3].any()
    assert (whole == np.rint(whole)).all()


def test_matrix_products_stay_exact():
    """The bound of matmul_mod, for as many texts at once as there are: a row's norm is 2^b."""
    texts = max(products.TOGETHER, PRIVATE.degree)  # a ciphertext of one column
    norm = 2.0**SCALE * (1 + 2**-6) + np.sqrt(texts) / 2
    assert norm * np.sqrt(texts) * 2**24 < 2**52


def test_flooding_hides_the_noise_of_the_largest_fold():
    for texts in (10, 2000, 1 << 20):
        noise = product_noise(PRIVATE, SCALE, 1.0, texts, proven=True)
        assert flooding(texts) >= HIDING_BITS + 1 + np.log2(noise)


def test_predicted_bytes_are_those_of_the_files(done):
    info = header(done.answer_at)
    cost = predict_fit(info.shape, info.space.dim)
    for predicted, path in ((cost.offer_bytes, done.offer_at), (cost.answer_bytes, done.answer_at)):
        assert 0 < path.stat().st_size - predicted < 3000
    bigger = predict_fit(FitShape(10_000, 5, 0, 384, 4096), 384)
    assert bigger.offer_bytes + bigger.answer_bytes < 120e6
    assert bigger.answer_s > cost.answer_s


def test_folds_are_as_many_as_have_enough_texts():
    assert choose_folds(10_000, 384) == 5
    assert choose_folds(10_000, 576) == 4
    assert choose_folds(8 * 17, 16) == 2
    with pytest.raises(InputError, match="--columns 15"):
        choose_folds(8 * 17 - 1, 16)
    assert choose_folds(8 * 17 - 1, 15) == 2  # the hint holds


def test_repeated_rows_are_counted_once():
    rows = np.array([[1], [2], [1], [3], [2], [1]], dtype=np.float32)
    folds = np.array([0, 1, 1, 1, 0, 0])
    assert count_distinct([(folds[:2], rows[:2]), (folds[2:], rows[2:])], 2) == (1, 2)


# --- files --------------------------------------------------------------------------------------


def test_what_is_kept_is_private_and_whole(done):
    assert stat.S_IMODE(done.kept_at.stat().st_mode) == 0o600
    again = done.folder / "again.npz"
    KeptOffer.load(done.kept_at).save(again)
    assert again.read_bytes() == done.kept_at.read_bytes()
    again.unlink()


def test_the_offer_holds_no_state_and_no_secret(done, models):
    raw = done.offer_at.read_bytes()
    assert SECRET.material[200:232] not in raw
    assert models[0].states[0].tobytes()[:8] not in raw
    assert b"space" not in raw[:2000]  # the client's model is not named


@pytest.mark.parametrize("which", ["offer_at", "answer_at"])
def test_damaged_files_are_refused_by_name(done, models, tmp_path, which):
    good = getattr(done, which).read_bytes()
    broken = Exchange(tmp_path)
    for name in ("offer_at", "kept_at", "answer_at"):
        getattr(broken, name).write_bytes(getattr(done, name).read_bytes())
    broken.kept_at.chmod(0o600)
    step = (lambda: broken.answer(models[1])) if which == "offer_at" else broken.finish
    cases = [good[:-1], good + b"\0", good[: len(good) // 2], b"", good[:40]]
    places = (9, 11, 13, 20, 60, 100, 500, len(good) // 2, len(good) - 1)
    cases += [good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :] for at in places]
    for case in cases:
        getattr(broken, which).write_bytes(case)
        left = sorted(tmp_path.iterdir())
        with pytest.raises((FormatError, InputError, MismatchError)) as caught:
            step()
        assert getattr(broken, which).name in str(caught.value) or isinstance(
            caught.value, MismatchError
        )
        assert sorted(tmp_path.iterdir()) == left


def test_files_of_another_kind_are_refused(done, models, tmp_path):
    with pytest.raises(FormatError, match="another kind of file: got offer, expected answer"):
        decrypt_moments(done.offer_at, done.kept())
    mixed = Exchange(tmp_path)
    mixed.offer_at.write_bytes(done.answer_at.read_bytes())
    with pytest.raises(FormatError, match="another kind of file: got answer, expected offer"):
        mixed.answer(models[1])
    states_at = tmp_path / "x.states.npz"
    save(states_at, models[0])
    with pytest.raises(FormatError):
        KeptOffer.load(states_at)


def test_an_answer_to_another_offer_or_key_is_refused(done, models, tmp_path):
    other = Exchange(tmp_path)
    other.offer(models[0])
    other.answer(models[1])
    with pytest.raises(MismatchError, match="answers another offer"):
        decrypt_moments(other.answer_at, done.kept())
    with pytest.raises(MismatchError, match="belongs to another key"):
        decrypt_moments(done.answer_at, dataclasses.replace(done.kept(), secret=keygen()[0]))


def rewritten(path, out, change):
    """Write a framed file with another description, all digests made anew."""
    from linalign_lite.encrypt import wire
    from linalign_lite.encrypt.wire import Kind, open_framed

    raw = path.read_bytes()
    with open_framed(path, Kind(int.from_bytes(raw[10:12], "little"))) as reader:
        payloads = [record.payload for record in reader]
        meta = {**reader.header.meta, **change}
        out.write_bytes(wire.framed_bytes(dataclasses.replace(reader.header, meta=meta), payloads))


@pytest.mark.parametrize(
    "change",
    [
        {"n": 1}, {"n": 10**9}, {"n": -5}, {"n": "400"}, {"folds": 1}, {"folds": 65},
        {"seed": -1}, {"columns": 0}, {"columns": 4097}, {"columns": 17}, {"text_digest": "x"},
        {"identity": ""}, {"more": 1},
    ],
)  # fmt: skip
def test_made_up_descriptions_of_offers_are_refused(done, models, tmp_path, change):
    forged = Exchange(tmp_path)
    rewritten(done.offer_at, forged.offer_at, change)
    with pytest.raises((FormatError, MismatchError)):
        forged.answer(models[1])
    assert not forged.answer_at.exists()


@pytest.mark.parametrize(
    "change",
    [{"flood_bits": 0}, {"flood_bits": 90}, {"columns": 8}, {"offer": "0" * 64}, {"space": 3},
     {"space": {"dim": 11}}],
)  # fmt: skip
def test_made_up_descriptions_of_answers_are_refused(done, tmp_path, change):
    out = tmp_path / "forged.answer"
    rewritten(done.answer_at, out, change)
    with pytest.raises((FormatError, MismatchError)):
        decrypt_moments(out, done.kept())


def test_moments_and_products_that_no_states_have_are_refused(done, tmp_path):
    from linalign_lite.encrypt import wire
    from linalign_lite.encrypt.wire import Kind, open_framed

    with open_framed(done.answer_at, Kind.ANSWER) as reader:
        payloads = [record.payload for record in reader]
        made = reader.header
    out = tmp_path / "forged.answer"
    ends = [np.array(v, "<f8").tobytes() for v in ([0, -1.0], [np.nan, 1], [np.inf, 1])]
    noise = os.urandom(len(payloads[0]) - 80) + payloads[0][-80:]
    for first in [*(payloads[0][:-16] + end for end in ends), noise]:
        out.write_bytes(wire.framed_bytes(made, [first, *payloads[1:]]))
        with pytest.raises(FormatError, match="that no states have"):
            decrypt_moments(out, done.kept())


GOLDEN = Path(__file__).parent / "golden"
KEYS = Path(__file__).parents[1] / "golden"


def test_golden_files_are_read(tmp_path):
    """An offer, its answer and what was kept, of the first versions; and a new answer to it."""
    for path in (*GOLDEN.iterdir(), *KEYS.glob("v3-private-*.key")):
        shutil.copy(path, tmp_path / path.name)
    (tmp_path / "v3-private-secret.key").chmod(0o600)
    secret = SecretKey.load(tmp_path / "v3-private-secret.key")
    kept_at = tmp_path / "v2.kept.npz"
    kept_at.chmod(0o600)
    found, report = solve_fit(tmp_path / "v3-private.answer", kept_at)
    np.testing.assert_allclose(found.weight, [[1.453729, -0.4922018]], atol=1e-4)
    np.testing.assert_allclose(found.bias, [2.9888], atol=1e-3)
    assert (report.n, report.folds) == (24, 2)
    assert (found.source.name, found.target.name) == ("source", "target")
    i = np.arange(24)
    x = np.stack([np.sin(i), np.cos(2 * i) + i / 8], axis=1).astype(np.float32)
    y = (x @ [[1.5], [-0.5]] + 3 + np.sin(9 * i)[:, None] / 4).astype(np.float32)
    digest = text_digest(map(str, range(24)))
    public = proven(secret, PublicKey.load(tmp_path / "v3-private-public.key"))
    answer = tmp_path / "again.answer"
    answer_fit(tmp_path / "v3-private.offer", answer, HiddenStates(y, text_digest=digest), [public])
    out = tmp_path / "found.map.npz"
    again, _ = finish_fit(answer, kept_at, out)
    np.testing.assert_allclose(again.weight, found.weight, atol=1e-4)
    np.testing.assert_array_equal(load_map(out).weight, again.weight)
    assert not kept_at.exists()


def test_an_offer_has_a_key_of_its_own_that_ends_with_it(models, tmp_path, monkeypatch):
    """Two offers, two keys; a key is in the kept file alone, and goes with it."""
    digests = set()
    for name in ("a", "b"):
        work = Exchange(tmp_path / name)
        work.folder.mkdir()
        with monkeypatch.context() as patched:
            if name == "a":  # a proof takes seconds
                patched.setattr(offer, "proven", lambda _, p: dataclasses.replace(p, proof=b"-"))
            info = offer_fit(work.offer_at, work.kept_at, models[0], columns=2)
        secret = work.kept().secret
        assert secret.digest == info.key
        public_at, proof_at = key_files(work.offer_at)
        assert [public_at.name, proof_at.name] == ["m.public.key", "m.public.proof"]
        assert PublicKey.load(public_at).digest == info.key
        digests.add(info.key)
        others = [p for p in work.folder.iterdir() if p != work.kept_at]
        assert len(others) == 3
        assert not any(secret.material[200:232] in p.read_bytes() for p in others)
    assert len(digests) == 2
    answer_fit(work.offer_at, work.answer_at, models[1])  # with the key beside the offer
    raw = work.kept_at.read_bytes()
    linked = work.folder / "linked"
    os.link(work.kept_at, linked)
    with pytest.raises(InputError, match="does the folder exist"):
        finish_fit(work.answer_at, work.kept_at, tmp_path / "none" / "m.map.npz")
    assert work.kept_at.read_bytes() == raw  # no map, so it can be made again
    finish_fit(work.answer_at, work.kept_at, work.folder / "m.map.npz")
    assert not work.kept_at.exists()
    assert not linked.read_bytes().strip(b"\0")  # overwritten, not only unlinked
    with pytest.raises(InputError, match=r"m\.kept\.npz"):
        finish_fit(work.answer_at, work.kept_at, work.folder / "m.map.npz")
    with pytest.raises(OutputExistsError, match=r"m\.public\.key is already there"):
        offer_fit(work.offer_at, work.kept_at, models[0], columns=2)


def test_a_kept_file_that_others_may_read_is_refused(done, tmp_path):
    copy = tmp_path / "m.kept.npz"
    shutil.copy(done.kept_at, copy)
    copy.chmod(0o640)
    with pytest.raises(InputError, match="can be read or written by others"):
        KeptOffer.load(copy)


def test_a_kept_file_goes_into_no_bundle(done, tmp_path):
    with pytest.raises(FormatError, match=r"m\.kept\.npz"):
        detect_kind(done.kept_at)
    hidden = tmp_path / "model.onnx"
    hidden.write_bytes(done.kept_at.read_bytes())
    assert SECRET.to_bytes() in hidden.read_bytes()  # as bundles look for secrets


def altered(path, out, change):
    arrays, card = load_npz(path, "linalign-offer", kept.VERSION, kept._SCHEMA)
    change(arrays)
    card = {k: v for k, v in card.items() if k not in ("format", "version")}
    save_npz(out, "linalign-offer", kept.VERSION, arrays, card, private=True)


@pytest.mark.parametrize("name", ["basis", "scale", "xx"])
@pytest.mark.parametrize("factor", [-1, 0, 1.1, 1e200])
def test_made_up_kept_files_are_refused(done, tmp_path, name, factor):
    def change(arrays):
        arrays[name] = arrays[name].copy()
        arrays[name].flat[0] *= factor

    altered(done.kept_at, tmp_path / "k.npz", change)
    with pytest.raises(FormatError, match=r"that no states have|not above 0"):
        KeptOffer.load(tmp_path / "k.npz")


# --- what is refused before work ----------------------------------------------------------------


def test_states_must_be_of_the_same_texts(done, models, tmp_path):
    x, y = models
    other = Exchange(tmp_path)
    other.offer(x)
    for wrong in (states(y.states, "u"), states(y.states[:-1]), states(y.states[::-1], "rev")):
        with pytest.raises(MismatchError, match="not of the offer's texts"):
            other.answer(wrong)
    unknown = dataclasses.replace(y, text_digest="")
    with pytest.raises(InputError, match="do not say which texts"):
        other.answer(unknown)
    with pytest.raises(InputError, match="do not say which texts"):
        other.offer(dataclasses.replace(x, text_digest=""))
    tokens = dataclasses.replace(x, text_index=np.arange(len(x), dtype=np.int32))
    with pytest.raises(InputError, match="one state of each text"):
        other.offer(tokens)
    assert not other.answer_at.exists()


def test_options_that_do_not_fit(models, tmp_path):
    x, _ = models
    exchange = Exchange(tmp_path)
    for options, said in (
        ({"columns": 17}, "so many columns"),
        ({"columns": 0}, "so many columns"),
        ({"folds": 1}, "number of folds"),
        ({"seed": -1}, "seed is not usable"),
        ({"folds": 6}, "give the provider's states away"),
    ):
        with pytest.raises(InputError, match=said):
            exchange.offer(x, **options)
    same = measure_source(TextStates(states(x.states * 0 + 1)), FitShape(400, 2, 0, 1, 4096))
    with pytest.raises(InputError, match="all the same"):
        choose_columns(same)
    trusted = keygen(TRUSTED)[0]
    with pytest.raises(InputError, match="profile private"):
        write_offer(exchange.offer_at, exchange.kept_at, x, trusted)
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_nothing(models, tmp_path, monkeypatch):
    from linalign_lite.encrypt.fitting import answer

    exchange = Exchange(tmp_path)

    def fail(*_args, **_options):
        raise LinalignError("as if the disk were full")

    with monkeypatch.context() as patched:
        patched.setattr(offer, "pack_seeded", fail)
        with pytest.raises(LinalignError):
            exchange.offer(models[0])
    assert not list(tmp_path.iterdir())
    exchange.offer(models[0])
    with monkeypatch.context() as patched:
        patched.setattr(answer, "in_words", fail)
        with pytest.raises(LinalignError):
            exchange.answer(models[1])
    assert sorted(tmp_path.iterdir()) == sorted([exchange.offer_at, exchange.kept_at])


class StoppedError(Exception):
    """Raised in place of a kill."""


def stop_after(texts):
    seen = [0]

    def progress(count):
        seen[0] += count
        if seen[0] > texts:
            raise StoppedError

    return progress


def test_an_interrupted_answer_resumes(done, models, tmp_path, monkeypatch):
    """In the second of three blocks of dimensions: what was added up before is not again."""
    from linalign_lite.encrypt.seal.context import SealContext

    monkeypatch.setattr(products, "MAX_BYTES", 5 * 8 * 2 * 5 * (4096 + 16))
    monkeypatch.setattr(checkpoint, "SECONDS", 0)
    work = Exchange(tmp_path)
    for name in ("offer_at", "kept_at"):
        shutil.copy(getattr(done, name), getattr(work, name))
    sums = tmp_path / "sums"
    with pytest.raises(StoppedError):
        work.answer(models[1], checkpoint=sums, progress=stop_after(600))
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == ["m.kept.npz", "m.offer", "sums.0", "sums.1"]
    assert stat.S_IMODE((tmp_path / "sums.1").stat().st_mode) == 0o600
    with pytest.raises(InputError, match="belongs to another answer"):
        work.answer(states(models[1].states + 1), checkpoint=sums)
    good = (tmp_path / "sums.1").read_bytes()
    (tmp_path / "sums.1").write_bytes(good[:-1000])
    with pytest.raises(InputError, match=r"sums\.1"):
        work.answer(models[1], checkpoint=sums)
    (tmp_path / "sums.1").write_bytes(good)
    grown, multiplied = SealContext.grown, []
    monkeypatch.setattr(
        SealContext, "grown", lambda self, seed: multiplied.append(seed) or grown(self, seed)
    )
    info = work.answer(models[1], checkpoint=sums)
    chunks = info.shape.chunks
    masks = 1  # of the public key
    assert chunks + masks <= len(multiplied) < 2 * chunks  # of the third block, and some
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.answer", "m.kept.npz", "m.offer"]
    _, report = work.finish()
    _, expected = fit(*models, folds=report.folds)
    assert report.held_out_r2 == pytest.approx(expected.held_out_r2, abs=1e-4)


def test_keys_must_be_known(done, models, tmp_path):
    other = Exchange(tmp_path)
    other.offer_at.write_bytes(done.offer_at.read_bytes())
    with pytest.raises(MismatchError, match="not among the provider's"):
        other.answer(models[1], keys=[])
    with pytest.raises(MismatchError, match="not among the provider's"):
        other.answer(models[1], keys=[keygen()[1]])
    with pytest.raises(MismatchError, match="its key has no proof"):
        other.answer(models[1], keys=[PUBLIC])
    other.answer(models[1], keys=[PUBLIC, PROVEN])

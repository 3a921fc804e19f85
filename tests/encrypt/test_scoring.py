"""One scoring suite for both profiles, against products in clear."""

import ast
import contextlib
import dataclasses
import hashlib
import inspect
import os
import pickle
import re
import threading

import numpy as np
import pytest

from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.space import Space
from linalign_lite.encrypt import encoded_heads
from linalign_lite.encrypt import provider as provider_module
from linalign_lite.encrypt.client import Client
from linalign_lite.encrypt.key_proof import proven
from linalign_lite.encrypt.keys import keygen
from linalign_lite.encrypt.masks import Masks
from linalign_lite.encrypt.messages import Query, Response
from linalign_lite.encrypt.packing import Layout
from linalign_lite.encrypt.parameters import PRIVATE, TRUSTED
from linalign_lite.encrypt.precision import precision_bits, rounding_step
from linalign_lite.encrypt.provider import Provider
from linalign_lite.encrypt.ring import Ring
from linalign_lite.errors import FormatError, InputError, MismatchError, PrecisionError

SETS = [PRIVATE, TRUSTED]
SIZES = [(1, 2), (64, 10), (384, 1), (384, 150), (768, 2), (4096, 10), (5000, 2), (5000, 30)]
# states of norm 1 and rows of norm 30: logits of a classifier on embeddings
TOLERANCE = 1e-2  # the largest error accepted, and half a unit of the last place


PAIRS = {}  # by profile: made once, and what provider_of serves
PROVEN = {}  # the same with proofs, for the tests that need one


@pytest.fixture(scope="module")
def pairs():
    PAIRS.update({p.name: keygen(p) for p in SETS if p.name not in PAIRS})
    return PAIRS


@pytest.fixture(scope="module")
def proof(pairs):
    return proven(*pairs["private"])


@pytest.fixture
def proofs(proof):
    PROVEN["private"] = proof
    yield
    PROVEN.clear()


@pytest.fixture(scope="module")
def clients(pairs):
    return {name: Client(secret) for name, (secret, _) in pairs.items()}


@pytest.fixture(params=SETS, ids=lambda p: p.name)
def client(request, clients):
    return clients[request.param.name]


def rows(rng, n, d, norm):
    x = rng.normal(size=(n, d))
    return (norm * x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def make(d, n_outputs, n=2, seed=0, **kwargs):
    rng = np.random.default_rng([seed, d, n_outputs])
    head = Head(rows(rng, n_outputs, d, 30.0), rng.normal(size=n_outputs) * 5, **kwargs)
    return rows(rng, n, d, 1.0), head


def exact(head, states):
    wide = states.astype(np.float64) @ head.weight.astype(np.float64).T + head.bias
    return head.finish(wide)


def require_best(scores, expected):
    """Every predicted class has the best score, up to the stated error of two rounded scores."""
    allowed = 2 * (scores.error + 0.5 * rounding_step(scores.error)[0])
    predicted = np.take_along_axis(expected, scores.predictions()[:, None], axis=1)[:, 0]
    assert (expected.max(axis=1) - predicted).max() <= allowed


def provider_of(head, *keys, **kwargs):
    known = [*(PROVEN.get(name, public) for name, (_, public) in PAIRS.items()), *keys]
    return Provider(head, keys=known, **{"accept": SETS} | kwargs)


@pytest.mark.parametrize(("d", "n_outputs"), SIZES)
@pytest.mark.parametrize("planned", [False, True], ids=["assumed", "planned"])
def test_scores(client, d, n_outputs, planned, record_property):
    states, head = make(d, n_outputs)
    query = client.encrypt(states, n_outputs=n_outputs if planned else None)
    response = provider_of(head).score(query)
    scores = client.decrypt(response, query)
    expected = exact(head, states)
    record_property("precision_bits", precision_bits(expected, scores.values))
    assert scores.values.shape == (2, n_outputs)
    assert scores.values.dtype == np.float64
    assert np.abs(scores.values - expected).max() < TOLERANCE
    require_best(scores, expected)
    assert np.array_equal(np.round(scores.values, scores.decimals), scores.values)
    assert scores.decimals >= 3


@pytest.mark.parametrize("name", ["private", "trusted"])
def test_precision_is_what_is_stated(clients, name):
    """A classifier on embeddings: 150 classes, rows of norm 20, states of norm 1."""
    rng = np.random.default_rng(8)
    states, head = rows(rng, 24, 384, 1.0), Head(rows(rng, 150, 384, 20.0), rng.normal(size=150))
    client = clients[name]
    query = client.encrypt(states, n_outputs=150)
    scores = client.decrypt(provider_of(head, max_error=2e-4).score(query), query)
    expected = exact(head, states)
    bits = precision_bits(expected, scores.values)
    print(f"{name}: precision left: {bits:.1f} bits")  # noqa: T201 (seen with pytest -s)
    assert scores.error < 2e-4
    assert (
        np.abs(scores.values - expected).max() < scores.error + 0.5 * rounding_step(scores.error)[0]
    )
    assert bits > 13
    require_best(scores, expected)


LAYOUTS = [(64, 5, 1, 1), (64, 5, 2, 7), (64, 5, 64, None), (16, 40, 3, 100), (1, 3, 1, 1),
           (1, 2, 1, None)]  # fmt: skip


@pytest.mark.parametrize(("d", "n_outputs", "chunks", "batch"), LAYOUTS)
def test_every_packing_gives_the_same_scores(client, proofs, d, n_outputs, chunks, batch):
    """Single queries, shared ciphertexts, columns; the last record is not full."""
    degree = client._key.parameters.degree
    layout = Layout(degree, d, chunks, batch or degree)
    states, head = make(d, n_outputs, n=layout.batch + 2 if layout.batch < 200 else 9)
    query = client.encrypt(states, layout=layout)
    assert query.info.layout == layout
    assert len(query.payloads) == layout.blocks(len(states))
    scores = client.decrypt(provider_of(head).score(query), query)
    assert np.abs(scores.values - exact(head, states)).max() < TOLERANCE


def test_columns_with_rows_of_zeros(client, proofs):
    """SEAL refuses products that are zero; a provider's head may be."""
    degree = client._key.parameters.degree
    states, head = make(4, 3, n=3)
    weight = np.array(head.weight)
    weight[1] = 0
    head = Head(weight, head.bias)
    query = client.encrypt(states, layout=Layout(degree, 4, 4, degree))
    scores = client.decrypt(provider_of(head).score(query), query)
    assert np.abs(scores.values - exact(head, states)).max() < TOLERANCE


def test_a_layout_for_other_states_is_refused(client):
    degree = client._key.parameters.degree
    for layout in (Layout(degree, 9, 1), Layout(degree * 2, 8, 1)):
        with pytest.raises(InputError, match="layout is for other states"):
            client.encrypt(np.ones((1, 8)), layout=layout)


def test_largest_allowed_score_does_not_wrap(client):
    """A state of exactly the bound, along the longest row: the worst case of Cauchy–Schwarz."""
    rng = np.random.default_rng(9)
    weight = rows(rng, 3, 64, 2.0**8 * 0.999).astype(np.float64)
    states = (2.0 * weight / np.linalg.norm(weight, axis=1, keepdims=True)).astype(np.float32)
    states *= np.float32(0.99999)
    head = Head(np.concatenate([weight, -weight]), np.zeros(6))
    query = client.encrypt(states)
    scores = client.decrypt(provider_of(head).score(query), query)
    assert np.abs(scores.values).max() > 500
    assert np.abs(scores.values - exact(head, states)).max() < TOLERANCE


def test_map_is_applied_and_its_space_is_kept(client):
    rng = np.random.default_rng(2)
    source, target = Space(24, "a" * 64, "b"), Space(16, "c" * 64, "a", "mean")
    the_map = AffineMap(rng.normal(size=(16, 24)) / 5, rng.normal(size=16), source, target)
    states = HiddenStates(rng.normal(size=(3, 24)).astype(np.float32), source)
    head = Head(rng.normal(size=(4, 16)), rng.normal(size=4), ("p", "q", "r", "s"), target)
    query = client.encrypt(states, the_map)
    assert query.info.space == target
    scores = client.decrypt(provider_of(head).score(query), query)
    expected = head.apply(the_map.apply(states.states))
    assert np.abs(scores.values - expected).max() < TOLERANCE
    require_best(scores, expected)
    assert scores.names() == [head.labels[i] for i in scores.predictions()]


@pytest.mark.parametrize(
    ("n", "chunks", "batch"), [(3, 1, 2), (250, 5, 200), (300, 5, 200), (600, 5, 512)]
)
def test_states_are_mapped_in_batches(clients, n, chunks, batch):
    """Each state is mapped once, in batches of at most 256."""
    client, rng, calls = clients["trusted"], np.random.default_rng(n), []

    class Counted(AffineMap):
        def apply(self, states):
            calls.append(len(states))
            return super().apply(states)

    the_map = Counted(rng.normal(size=(5, 4)) / 5, rng.normal(size=5))
    states = rows(rng, n, 4, 1.0)
    head = Head(rng.normal(size=(3, 5)), rng.normal(size=3))
    query = client.encrypt(states, the_map, layout=Layout(2048, 5, chunks, batch))
    assert sum(calls) == n
    assert max(calls) <= 256
    scores = client.decrypt(provider_of(head).score(query), query)
    assert np.abs(scores.values - exact(head, the_map(states))).max() < TOLERANCE


def test_the_best_is_chosen_before_scores_are_rounded(clients):
    """Two classes a hundredth of the last place apart: equal once rounded."""
    client = clients["trusted"]
    row = np.full(64, 0.5)
    head = Head(np.stack([row, row, -row]), np.array([0.0, 4e-4, 0.0]))
    states = np.full((4, 64), 1 / 8)
    scores = client.decrypt(provider_of(head, max_error=1e-4).score(client.encrypt(states)))
    coarse = dataclasses.replace(scores, values=np.round(scores.values, 2))
    assert coarse.values[0, 0] == coarse.values[0, 1]
    assert coarse.predictions().tolist() == [1, 1, 1, 1]
    assert coarse.ranking().tolist() == [[1, 0, 2]] * 4
    assert scores.ranking().tolist() == [[1, 0, 2]] * 4


def test_softcap_is_applied_by_the_client(client):
    states, head = make(32, 4, softcap=30.0)
    query = client.encrypt(states)
    scores = client.decrypt(provider_of(head).score(query))
    assert np.abs(scores.values - exact(head, states)).max() < TOLERANCE
    assert scores.names() == [str(i) for i in scores.predictions()]


def test_zero_states_and_zero_heads(client):
    states = np.zeros((1, 8), dtype=np.float32)
    for weight in (np.zeros((2, 8)), np.eye(8)[:2]):
        head = Head(weight, np.array([1.5, -2.5]))
        query = client.encrypt(states)
        scores = client.decrypt(provider_of(head).score(query), query)
        assert np.abs(scores.values - [[1.5, -2.5]]).max() < TOLERANCE


@pytest.mark.parametrize("scale", [1e-6, 1.0, 10.0])
def test_other_magnitudes(clients, scale):
    states, head = make(64, 5)
    states = (states * scale).astype(np.float32)
    client = clients["private"]
    query = client.encrypt(states)
    scores = client.decrypt(provider_of(head).score(query), query)
    assert np.abs(scores.values - exact(head, states)).max() < TOLERANCE * max(scale, 1)


def test_files_give_what_memory_gives(client, tmp_path):
    states, head = make(64, 70, n=5, labels=tuple(f"label {i}" for i in range(70)))
    q, r = tmp_path / "a.query", tmp_path / "a.response"
    done = []
    layout = Layout(client._key.parameters.degree, 64, 3, 2)
    info = client.encrypt_to(q, states, layout=layout, progress=done.append)
    provider = provider_of(head)
    answer = provider.score_file(q, r, progress=done.append)
    scores = client.decrypt_from(r, q, progress=done.append)
    assert sum(done) == 15
    assert np.abs(scores.values - exact(head, states)).max() < TOLERANCE
    query, response = Query.load(q), Response.load(r)
    assert (query.info, response.info) == (info, answer)
    assert query.to_bytes() == q.read_bytes()
    assert response.to_bytes() == r.read_bytes()
    again = client.decrypt(provider.score(query), query)
    assert np.abs(again.values - scores.values).max() < TOLERANCE
    assert np.array_equal(client.decrypt_from(r).values, scores.values)
    query.save(tmp_path / "b.query")
    response.save(tmp_path / "b.response")
    assert (tmp_path / "b.query").read_bytes() == q.read_bytes()
    assert (tmp_path / "b.response").read_bytes() == r.read_bytes()


def test_head_too_large_to_keep_is_encoded_again(client):
    states, head = make(64, 70)
    query = client.encrypt(states)
    kept, fresh = provider_of(head), provider_of(head, cache_bytes=0)
    for provider, held in ((kept, 1), (fresh, 0)):
        scores = client.decrypt(provider.score(query), query)
        assert np.abs(scores.values - exact(head, states)).max() < TOLERANCE
        assert len(provider._scorers.of(query.info)._encoded._kept) == held


def test_cache_stays_within_its_bytes(clients):
    states, head = make(64, 2, n=1)
    client = clients["trusted"]
    plain = 8 * TRUSTED.degree
    provider = provider_of(head, cache_bytes=3 * plain)
    cache = provider._scorers.whole(TRUSTED)._encoded._kept
    for chunks in (1, 2, 1, 3, 1):
        query = client.encrypt(states, layout=Layout(2048, 64, chunks))
        scores = client.decrypt(provider.score(query), query)
        assert np.abs(scores.values - exact(head, states)).max() < TOLERANCE
        assert 0 < sum(a.nbytes for kept in cache.values() for a in kept) <= 3 * plain
    assert len(cache) == 1


@pytest.mark.parametrize("name", ["private", "trusted"])
def test_threads_share_a_provider(clients, name):
    states, head = make(64, 100, n=1)
    client = clients[name]
    provider, query = provider_of(head), client.encrypt(states)
    answers = []

    def work():
        answers.append(provider.score(query))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    values = [client.decrypt(answer, query).values for answer in answers]
    assert len(values) == 4
    assert all(np.abs(v - exact(head, states)).max() < TOLERANCE for v in values)
    # masked anew each time; in the trusted profile nothing is random
    assert len({a.payloads for a in answers}) == (4 if name == "private" else 1)


def test_keys_come_later_and_the_oldest_are_forgotten():
    provider = Provider(make(8, 2)[1])
    keys = [keygen()[1] for _ in range(4)]
    for key in keys:
        provider.add_key(key, most=3)
    assert [provider.has_key(k.digest) for k in keys] == [False, True, True, True]
    provider.add_key(keys[0])
    assert all(provider.has_key(k.digest) for k in keys)


def test_a_proof_may_come_after_its_key(pairs, proof):
    provider = Provider(make(8, 2)[1], keys=[pairs["private"][1]])
    assert not provider.is_proven(proof.digest)
    provider.add_key(proof)
    assert provider.has_key(proof.digest)
    assert provider.is_proven(proof.digest)


@pytest.mark.parametrize("where", ["there", "gone", "another user's"])
def test_encoded_heads_are_shared_in_a_folder_of_ones_own(clients, tmp_path, monkeypatch, where):
    """A folder that was removed is not made again: others know its name, and may read in it."""
    monkeypatch.setattr(encoded_heads, "_LARGE", 1)
    root, client = tmp_path / "root", clients["private"]
    if where != "gone":
        root.mkdir()
    if where == "another user's":
        (root / "0").mkdir(mode=0o777)
        monkeypatch.setattr(os, "getuid", lambda: root.stat().st_uid + 1)
    states, head = make(384, 150)
    provider = Provider(head, keys=[PAIRS["private"][1]], shared=root / "0")
    query = client.encrypt(states)
    scores = client.decrypt(provider.score(query), query)
    assert np.abs(scores.values - exact(head, states)).max() < TOLERANCE
    if where == "there":
        for folder in (root / "0", root / "0" / "private"):
            assert folder.stat().st_mode & 0o777 == 0o700
        assert list((root / "0" / "private").iterdir())
    else:
        assert not list(tmp_path.rglob("*.spectra"))
        assert root.exists() == (where != "gone")


def test_masks_are_drawn_anew_also_in_a_fork(pairs):
    """Nothing is made ahead, so no process, fork or copy of a machine can use a mask again."""
    masks, ring = Masks(pairs["private"][1]), Ring(4096, PRIVATE.data_primes, 15)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover (another process)
        os.write(writer, hashlib.sha256(masks.draw(ring).tobytes()).digest())
        os._exit(0)
    seen = {hashlib.sha256(masks.draw(ring).tobytes()).digest() for _ in range(5)}
    seen.add(os.read(reader, 32))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(seen) == 6


def test_a_query_for_known_outputs_is_small_and_serves_no_others(clients):
    client = clients["private"]
    states, head = make(384, 2)
    query = client.encrypt(states[:1], n_outputs=2)
    assert query.info.window == (-384, 1152)
    assert len(query.to_bytes()) < 14_000
    scores = client.decrypt(provider_of(head).score(query), query)
    assert np.abs(scores.values - exact(head, states[:1])).max() < TOLERANCE
    _, larger = make(384, 3)
    with pytest.raises(MismatchError, match=r"fewer scores than the head has.*got a query for 2"):
        provider_of(larger).score(query)
    smaller = Head(head.weight[:1], head.bias[:1])
    one = client.decrypt(provider_of(smaller).score(query), query)
    assert np.abs(one.values - exact(smaller, states[:1])).max() < TOLERANCE


def test_more_than_128_coefficients_of_a_product_need_a_proven_key(pairs, clients, proof):
    client, (secret, public) = clients["private"], pairs["private"]
    states, head = make(4, 3, n=200)
    bulk = client.encrypt(states, layout=Layout(4096, 4, 4, 200))
    with pytest.raises(MismatchError, match=r"only under a proven key.*keygen --prove"):
        Provider(head, keys=[public]).score(bulk)
    few = client.encrypt(states[:128], layout=Layout(4096, 4, 4, 128))
    assert Provider(head, keys=[public]).score(few)
    provider = Provider(head, keys=[proof])
    mine = Client(secret, proven=True)
    response = provider.score(bulk)
    scores = mine.decrypt(response, bulk)
    assert np.abs(scores.values - exact(head, states)).max() < TOLERANCE
    # flooding is fitted to what the proof shows, for every layout
    assert response.info.flood_bits > Provider(head, keys=[public]).score(few).info.flood_bits + 4
    assert mine.encrypt(np.ones((5000, 4)) / 4).info.batch > 128
    assert client.encrypt(np.ones((5000, 4)) / 4).info.batch <= 128
    broken = dataclasses.replace(proof, proof=proof.proof[:-1] + b"\0")
    with pytest.raises(FormatError, match="proof of a public key does not verify"):
        Provider(head, keys=[broken])


def test_words_are_as_long_as_the_error_asks(clients):
    client = clients["private"]
    states, head = make(384, 5)
    query = client.encrypt(states)
    for most, bits, size in ((1e-2, 24, 12_500), (3e-4, 32, 16_500)):
        response = provider_of(head, max_error=most).score(query)
        assert response.info.word_bits == bits
        assert len(response.payloads[0]) < size
        found = client.decrypt(response, query)
        assert found.error <= most
        assert (
            np.abs(found.values - exact(head, states)).max()
            < most + 0.5 * rounding_step(found.error)[0]
        )


@pytest.mark.parametrize("name", ["private", "trusted"])
def test_processes_give_the_same_scores(clients, name, tmp_path):
    states, head = make(32, 3, n=9)
    client = clients[name]
    layout = Layout(client._key.parameters.degree, 32, 1, 2)
    client.encrypt_to(tmp_path / "q", states, layout=layout)
    done = []
    provider_of(head).score_file(tmp_path / "q", tmp_path / "r", done.append, workers=2)
    assert sum(done) == 9
    scores = client.decrypt_from(tmp_path / "r", tmp_path / "q")
    assert np.abs(scores.values - exact(head, states)).max() < TOLERANCE


# -- what does not belong together ------------------------------------------------------------


def test_response_of_another_key(client):
    states, head = make(8, 2)
    secret, public = keygen(client._key.parameters)
    response = provider_of(head, public).score(Client(secret).encrypt(states))
    with pytest.raises(MismatchError, match="another key"):
        client.decrypt(response)


def test_response_under_other_parameters(clients):
    states, head = make(8, 2)
    response = provider_of(head).score(clients["trusted"].encrypt(states))
    with pytest.raises(MismatchError, match="another key"):
        clients["private"].decrypt(response)


def test_response_to_another_query(client, tmp_path):
    states, head = make(8, 2)
    layout = Layout(client._key.parameters.degree, 8, 1, 1)
    first, second = client.encrypt(states, layout=layout), client.encrypt(states, layout=layout)
    response = provider_of(head).score(first)
    with pytest.raises(MismatchError, match="another query"):
        client.decrypt(response, second)
    swapped = Response(response.info, response.payloads[::-1])
    with pytest.raises(MismatchError, match="record 0 answers another"):
        client.decrypt(swapped, first)
    first.save(tmp_path / "1.query")
    second.save(tmp_path / "2.query")
    swapped.save(tmp_path / "s.response")
    for name in ("1.query", "2.query"):
        with pytest.raises(MismatchError, match="answers another query"):
            client.decrypt_from(tmp_path / "s.response", tmp_path / name)


@pytest.mark.parametrize(
    "change",
    [
        {"norm_bits": 10},
        {"head_scale": 0},
        {"rounding_bits": 12},
        {"chunks": 2},
        {"batch": 3},
        {"flood_bits": 85},
        {"word_bits": 32},
    ],
)
def test_a_response_whose_header_was_edited_gives_no_wrong_number(clients, change):
    """Digests agree, but the description does not fit the query."""
    client = clients["private"]
    states, head = make(64, 3)
    query = client.encrypt(states, layout=Layout(4096, 64, 1, 4))
    response = provider_of(head).score(query)
    edited = Response(dataclasses.replace(response.info, **change), response.payloads)
    with pytest.raises(
        (MismatchError, InputError, FormatError),
        match=r"another query|imprecise|size that its|wrong length",
    ):
        client.decrypt(edited, query)


def test_a_small_head_is_not_rounded_to_nothing(clients):
    client = clients["private"]
    head = Head(np.eye(4) * 1e-7, np.zeros(4))
    states = np.roll(np.eye(4), 1, axis=1)
    scores = client.decrypt(provider_of(head).score(client.encrypt(states)))
    assert scores.predictions().tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize("name", ["private", "trusted"])
def test_the_stated_error_bounds_the_error(clients, name, monkeypatch):
    """No error exceeds the stated bound, and the bound is at most ten times too large."""
    monkeypatch.setattr("linalign_lite.encrypt.client.rounding_step", lambda _: (1e-15, 15))
    client = clients[name]
    states, head = make(384, 10, n=60)
    query = client.encrypt(states, layout=Layout(client._key.parameters.degree, 384, 1, 1))
    provider = provider_of(head)
    scores = client.decrypt(provider.score(query), query)
    scales = provider._scorers.of(query.info).scales(query.info.layout, query.info.norm_bits)
    error = np.abs(scores.values - exact(head, states)).max()
    assert scales.error / 10 < error < scales.error
    assert rounding_step(scales.error)[0] >= scales.error


def test_wrong_secret_key_of_the_same_name_gives_noise(clients):
    """The digest only names a key; decryption needs the key itself."""
    states, head = make(64, 10)
    good = clients["private"]
    secret, _ = keygen(PRIVATE)
    object.__setattr__(secret, "digest", good._key.digest)
    query = good.encrypt(states)
    scores = Client(secret).decrypt(provider_of(head).score(query), query)
    assert np.median(np.abs(scores.values - exact(head, states))) > 1


def test_wrong_space_and_dimension(client):
    states, head = make(8, 2)
    with pytest.raises(MismatchError, match=r"head's space.*\(9 dimensions\).*\(8 dimensions\)"):
        provider_of(head).score(client.encrypt(np.ones((1, 9), dtype=np.float32)))
    here = Head(head.weight, head.bias, space=Space(8, "a" * 64, "one"))
    there = HiddenStates(states, Space(8, "b" * 64, "two"))
    with pytest.raises(MismatchError, match="two bbbbbbbb"):
        provider_of(here).score(client.encrypt(there))
    the_map = AffineMap(np.eye(8), np.zeros(8), Space(8, "c" * 64))
    with pytest.raises(MismatchError, match="map does not read these states"):
        client.encrypt(there, the_map)


def test_parameter_set_that_is_not_accepted(clients):
    states, head = make(8, 2)
    with pytest.raises(MismatchError, match="does not accept"):  # only what hides the head
        Provider(head).score(clients["trusted"].encrypt(states))
    with pytest.raises(MismatchError, match="does not accept"):
        provider_of(head, accept=[TRUSTED]).score(clients["private"].encrypt(states))


def test_public_key_that_is_not_known(clients):
    states, head = make(8, 2)
    with pytest.raises(MismatchError, match=r"public key of this query is not among.*public\.key"):
        Provider(head).score(clients["private"].encrypt(states))
    # trusted needs none: nothing is hidden
    assert Provider(head, accept=[TRUSTED]).score(clients["trusted"].encrypt(states))


# -- overflow and precision are named, and messages do not repeat values -------------------------


def test_state_above_the_declared_bound(client, tmp_path):
    states = np.full((3, 4), 123.456, dtype=np.float32)
    for call in (client.encrypt, lambda *a, **k: client.encrypt_to(tmp_path / "q", *a, **k)):
        with pytest.raises(InputError, match="3 of 3 states above") as caught:
            call(states, norm_bound=100)
        assert "123" not in str(caught.value)
        assert "246" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert client.encrypt(states, norm_bound=250).info.norm_bits == 8


def test_states_that_cannot_be_encrypted(client):
    with pytest.raises(InputError, match="too large to encrypt") as caught:
        client.encrypt(np.full((1, 4), 1.2345e20, dtype=np.float32))
    assert "2345" not in str(caught.value)
    with pytest.raises(InputError, match="not finite"):
        client.encrypt(np.full((1, 4), np.nan, dtype=np.float32))
    with pytest.raises(InputError, match="too large to encrypt"):
        client.encrypt(np.ones((1, 2)), AffineMap(np.full((2, 2), 1e300), np.zeros(2)))


@pytest.mark.parametrize("where", ["weight", "bias"])
def test_head_that_could_overflow(client, where):
    weight, bias = np.ones((2, 4)), np.zeros(2)
    (weight if where == "weight" else bias)[1] = 1.2345e19
    with pytest.raises(PrecisionError, match="this query is refused") as caught:
        provider_of(Head(weight, bias)).score(client.encrypt(np.ones((1, 4))))
    assert not re.search("[0-9]", str(caught.value))  # nothing of the head: it may reach a client
    assert "could overflow" in str(caught.value.__cause__)


def test_head_that_would_be_too_imprecise(client):
    head = Head(np.full((2, 4), 1e4), np.zeros(2))
    query = client.encrypt(np.ones((1, 4)))
    with pytest.raises(PrecisionError, match=r"this query is refused: .* too imprecise") as caught:
        provider_of(head).score(query)
    assert not re.search("[0-9]", str(caught.value))
    assert provider_of(head, max_error=1e6).score(query)


# -- what the provider gets holds no secret ------------------------------------------------------


def test_provider_gets_no_secret_and_no_state(pairs, clients):
    secret, public = pairs["private"]
    states, _ = make(64, 2, n=1)
    query = clients["private"].encrypt(states)
    given = query.to_bytes() + pickle.dumps(query) + public.to_bytes()
    for start in range(0, len(secret.material) - 16, 16):
        assert secret.material[start : start + 16] not in given
    for wide in (states, states.astype(np.float64)):
        assert wide.tobytes()[:16] not in given


def test_same_state_twice_gives_unlike_queries(clients):
    states, _ = make(64, 2, n=1)
    first, second = (clients["private"].encrypt(states).payloads[0] for _ in range(2))
    same = np.frombuffer(first, np.uint8) == np.frombuffer(second, np.uint8)
    assert same.mean() < 0.02


def test_provider_names_nothing_secret():
    tree = ast.parse(inspect.getsource(provider_module))
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    names |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    names |= {a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names}
    assert not {"SecretKey", "SECRET_KEY", "secret_side", "Client", "keygen"} & names


def test_provider_refuses_a_secret_key_as_query(pairs, tmp_path):
    _, head = make(8, 2)
    pairs["private"][0].save(tmp_path / "secret.key")
    with pytest.raises(FormatError, match="got secret key, expected query"):
        provider_of(head).score_file(tmp_path / "secret.key", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -- hostile ciphertexts --------------------------------------------------------------------------


@pytest.mark.parametrize("parameters", [PRIVATE, TRUSTED], ids=lambda p: p.name)
def test_ciphertexts_that_are_not(clients, parameters):
    """Right length, wrong content: useless scores or a named error, never a crash."""
    client = clients[parameters.name]
    states, head = make(64, 3, n=1)
    query = client.encrypt(states)
    response = provider_of(head).score(query)
    rng = np.random.default_rng(4)
    for fill in (bytes, lambda n: b"\xff" * n, rng.bytes):
        bad = fill(len(query.payloads[0]))
        forged = Query(query.info, (bad,))
        with contextlib.suppress(FormatError):
            provider_of(head).score(forged)
        tail = fill(len(response.payloads[0]) - 32)
        forged = Response(response.info, (response.payloads[0][:32] + tail,))
        with contextlib.suppress(FormatError):
            client.decrypt(forged)


def test_agrees_with_tenseals_own_dot():
    import tenseal

    states, head = make(64, 3, n=1)
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 60])
    context.generate_galois_keys()
    context.global_scale = 2.0**40
    vector = tenseal.ckks_vector(context, states[0].astype(float).tolist())
    peer = [vector.dot(row.tolist()).decrypt()[0] for row in head.weight.astype(float)]
    secret, public = keygen()
    client = Client(secret)
    query = client.encrypt(states)
    ours = client.decrypt(Provider(head, keys=[public]).score(query), query).values[0]
    assert np.abs(ours - (peer + head.bias)).max() < TOLERANCE

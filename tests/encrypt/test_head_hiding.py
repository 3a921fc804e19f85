"""Attacks by a key's holder on responses, and the states that a provider's budget counts."""

import dataclasses
import hashlib
import json
import os
import stat
import struct
from pathlib import Path

import numpy as np
import pytest
import tenseal.sealapi as api

from linalign_lite.core.head import Head
from linalign_lite.core.signing import SigningKey, VerifyingKey
from linalign_lite.encrypt.audit.report import AuditReport, audit
from linalign_lite.encrypt.budgets.budget import Budget
from linalign_lite.encrypt.budgets.kept_responses import KeptResponses
from linalign_lite.encrypt.client import Client
from linalign_lite.encrypt.key_proof import prove, verify
from linalign_lite.encrypt.keys import PublicKey, keygen, seal_context
from linalign_lite.encrypt.messages import Query, signed_bytes
from linalign_lite.encrypt.modular import add_mod, pack_seeded, random_ternary, unpack_seeded
from linalign_lite.encrypt.packing import Layout, pack_rows, score_positions
from linalign_lite.encrypt.parameters import PRIVATE, TRUSTED
from linalign_lite.encrypt.provider import Provider
from linalign_lite.encrypt.response_encoding import decode_products, decrypt_products, product_size
from linalign_lite.encrypt.ring import spectrum
from linalign_lite.encrypt.wire import Record, digest_record
from linalign_lite.errors import (
    BudgetError,
    FormatError,
    InputError,
    MismatchError,
    PrecisionError,
    SignatureError,
)

DIM, CLASSES = 48, 5


def head_of(seed=0, classes=CLASSES, dim=DIM, norm=10.0):
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(classes, dim))
    weight *= norm / np.linalg.norm(weight, axis=1, keepdims=True)
    return Head(weight, rng.normal(size=classes))


@pytest.fixture(scope="module")
def reports():
    return {p.name: audit(head_of(), p) for p in (PRIVATE, TRUSTED)}


# -- attacks -------------------------------------------------------------------------------------


def test_the_attack_works_on_a_bare_product(reports):
    """The next test can fail: one product without protection reveals every weight."""
    for report in reports.values():
        assert report.bare_error < 1e-4
        assert report.bare_noise > 0.999


def test_the_attack_fails_on_a_response(reports):
    report = reports["private"]
    assert abs(report.masked_correlation) < report.chance < 1
    assert abs(report.sent_correlation) < report.chance
    assert abs(report.sent_noise) < report.noise_chance < 1
    assert not report.leaks


def test_trusted_gives_the_head_away(reports):
    """The same attack succeeds on the profile without protection, before rounding."""
    assert reports["trusted"].masked_correlation > 0.999
    assert reports["trusted"].leaks


def test_chosen_queries_give_the_head_away(reports):
    """Scores are linear, under any encryption."""
    for report in reports.values():
        assert report.queries == DIM + 1
        assert report.algebra_error < 2e-3


def test_sizes_depend_on_shapes_alone(reports):
    assert all(report.sizes_equal for report in reports.values())


def test_a_report_says_so(reports):
    text = "\n".join(reports["private"].lines())
    assert "49 chosen queries" in text
    assert reports["private"].as_dict()["leaks"] is False
    leaky = dataclasses.replace(reports["private"], masked_correlation=0.9)
    assert leaky.leaks
    assert isinstance(leaky, AuditReport)


@pytest.mark.parametrize("shape", [(2, 8), (1, 1), (70, 3)])
def test_odd_heads_are_audited_too(shape):
    """Audit a head of zeros, one of a single weight, one of more classes than are attacked."""
    head = Head(np.zeros(shape) if shape == (2, 8) else np.ones(shape), np.zeros(shape[0]))
    report = audit(head, PRIVATE)
    assert json.loads(json.dumps(report.as_dict(), allow_nan=False))["leaks"] is False
    assert report.algebra_error < 2e-3


def test_a_response_has_only_what_is_wanted():
    """The whole second component, and one coefficient of the first per score."""
    secret, public = keygen(PRIVATE)
    query = Client(secret).encrypt(np.eye(DIM)[:1], layout=Layout(4096, DIM, 1))
    (payload,) = Provider(head_of(), keys=[public]).score(query).payloads
    assert len(payload) == 32 + product_size(4096, CLASSES, 24) == 32 + 3 * (4096 + CLASSES)


def test_a_response_of_nothing_but_zeros_is_masked():
    """Responses to a zero query by a zero head differ everywhere, every time."""
    secret, public = keygen(PRIVATE)
    query = Client(secret).encrypt(np.zeros((1, DIM)))
    provider = Provider(Head(np.zeros((2, DIM)), np.zeros(2)), keys=[public])
    replies = [provider.score(query).payloads[0][32:] for _ in range(2)]
    first, second = (decode_products(r, 1, 4096, 24)[0][0] for r in replies)
    assert (first == second).sum() <= 2
    for words in (first, second):  # all 24 bits of words are at work
        assert abs((words >> 23).mean() - 0.5) < 0.05
        assert abs((words & 1).mean() - 0.5) < 0.05


def forged(client, coefficients):
    """A query of any polynomial of integers, as a dishonest holder of the key may make it."""
    query = client.encrypt(np.zeros((1, DIM)), layout=Layout(4096, DIM, 1))
    zero, seed = unpack_seeded(query.payloads[0], 4096, PRIVATE.data_primes)
    rows = [
        add_mod(row, np.array([int(c) % p for c in coefficients], dtype=np.uint64), p)
        for row, p in zip(zero, PRIVATE.data_primes, strict=True)
    ]
    return Query(query.info, (pack_seeded(np.stack(rows), seed, PRIVATE.data_primes),))


def test_a_chosen_ciphertext_gets_one_functional_for_each_returned_coefficient():
    """A dishonest query: the polynomial 1 reads all coefficients of a bare product.

    Of a response it reads those that are returned, one number each, as honest queries do. The
    values that it decrypts elsewhere do not depend on the head.
    """
    head = head_of()
    secret, public = keygen(PRIVATE)
    client, provider = Client(secret), Provider(head, keys=[public])
    impulse = np.zeros(4096)
    impulse[0] = 2.0**69
    query = forged(client, impulse)
    response = provider.score(query)
    (second,), (first,) = decode_products(response.payloads[0][32:], 1, 4096, 24)
    assert len(first) == CLASSES
    (rows,) = next(pack_rows(query.info.layout, head.weight))
    positions = score_positions(query.info.layout, CLASSES).ravel()
    unit = 2.0 ** (PRIVATE.data_bits - 69 - response.info.head_scale)
    secret = spectrum(client._side.secret)
    returned = decrypt_products(secret, second, first, positions, 24) * unit
    scale = 2.0 ** (70 - 69)  # the header says states of norm 2^0 at 2^70; the impulse is 2^69
    assert np.abs(returned - head.bias * scale - rows[positions]).max() < 2e-3
    guesses = np.zeros(4096, dtype=np.uint32)  # the coefficients of the first that did not come
    whole = decrypt_products(secret, second, guesses, np.arange(4096), 24) * unit
    used = rows != 0
    used[positions] = False
    correlation = np.corrcoef(whole[used], rows[used])[0, 1]
    assert abs(correlation) < 6 / np.sqrt(used.sum())
    # and at most so many bits come with a coefficient
    assert PRIVATE.data_bits - response.info.flood_bits < 28


def test_nobody_chooses_the_second_component_of_a_public_key():
    """A key whose second component is zero would mask nothing. The file has only its seed."""
    _, public = keygen(PRIVATE)
    rows, seed = unpack_seeded(public.payload, 4096, PRIVATE.data_primes)
    assert len(public.payload) == len(pack_seeded(rows, b"", PRIVATE.data_primes)) + 64
    for other in (bytes(64), b"\xff" * 64, seed):
        second = seal_context(PRIVATE).grown(other)
        assert all(len(np.unique(row)) > 4000 for row in second)  # of 4096 residues of 45 bits


def made_up_key(digits, width, step):
    """p0 = Σ_i step·3^i·X^(i·width): a returned coefficient shows ``digits`` coefficients of u."""
    rows = np.zeros((2, 4096), dtype=np.uint64)
    for i in range(digits):
        for row, prime in zip(rows, PRIVATE.data_primes, strict=True):
            row[i * width] = step * 3**i % prime
    return PublicKey(PRIVATE, pack_seeded(rows, os.urandom(64), PRIVATE.data_primes))


def test_a_made_up_key_reads_the_mask_where_every_coefficient_is_returned(monkeypatch):
    """One product of the packing columns shows all of u: so that packing needs a proof."""
    digits, width, step = 13, 316, 2**68  # above flooding and words, and 13 digits below q/2
    key = made_up_key(digits, width, step)
    dim = 3
    layout, drawn = Layout(4096, dim, dim, 4096), []
    query = Client(keygen(PRIVATE)[0]).encrypt(np.zeros((4096, dim)), layout=layout)
    zeros = np.zeros((2, 4096), dtype=np.uint64)
    payload = b"".join(pack_seeded(zeros, os.urandom(64), PRIVATE.data_primes) for _ in range(dim))
    query = Query(dataclasses.replace(query.info, key=key.digest), (payload,))
    provider = Provider(Head(np.eye(1, dim), np.zeros(1)), keys=[key])
    with pytest.raises(MismatchError, match="only under a proven key"):
        provider.score(query)
    secret, honest = keygen(PRIVATE)
    with pytest.raises(InputError):  # and there is no proof of it
        prove(dataclasses.replace(secret, digest=key.digest), key)
    with pytest.raises(FormatError, match="does not verify"):
        verify(key, prove(secret, honest))

    def recorded(count):
        drawn.append(random_ternary(count))
        return drawn[-1]

    monkeypatch.setattr("linalign_lite.encrypt.masks.random_ternary", recorded)
    monkeypatch.setattr("linalign_lite.encrypt.messages.MAX_RETURNED", 4096)
    response = provider.score(query)
    _, (first,) = decode_products(response.payloads[0][32:], 1, 4096, 24)
    values = first.astype(float) / 2.0**24
    rest = np.round((values - np.round(values)) * PRIVATE.modulus / step)
    (mask,) = drawn
    last = np.arange((digits - 1) * width, 4096)  # where no term has wrapped around
    right = 0
    for i in range(digits):  # balanced ternary, the lowest digit first
        digit = (rest + 1) % 3 - 1
        right += (digit[last] == mask[last - i * width]).sum()
        rest = (rest - digit) / 3
    assert right > 0.98 * digits * len(last) > 0.94 * 4096  # of 4,096 coefficients of u


def test_a_query_may_use_no_seed_twice():
    """With the key's own seed, or one for two chunks, products and masks would be related."""
    secret, public = keygen(PRIVATE)
    query = Client(secret).encrypt(np.eye(DIM)[:1], layout=Layout(4096, DIM, 2))
    provider, size = Provider(head_of(), keys=[public]), query.info.chunk_size
    assert provider.score(query)
    (good,) = query.payloads
    first, second = good[:size], good[size:]
    for bad in (
        first[:-64] + public.seed + second,
        first + second[:-64] + public.seed,
        first + second[:-64] + first[-64:],
    ):
        with pytest.raises(FormatError, match="uses a seed twice"):
            provider.score(Query(query.info, (bad,)))


# -- another implementation ----------------------------------------------------------------------


def packed(words, prime):
    """Pack residues as docs/FORMAT.md, Polynomials, describes, bit by bit."""
    bits = prime.bit_length()
    out = bytearray()
    for word in words:
        out += int(word).to_bytes(8, "little")[: bits // 8]
    for k in range(bits // 8 * 8, bits):
        plane = sum(((int(word) >> k) & 1) << i for i, word in enumerate(words))
        out += plane.to_bytes(len(words) // 8, "little")
    return bytes(out)


@pytest.mark.parametrize("profile", [PRIVATE, TRUSTED], ids=lambda p: p.name)
def test_another_seal_implementation_can_ask_and_read(profile):
    """Keys, a query and SEAL's decryption of a response, from docs/FORMAT.md and SEAL alone."""
    from linalign_lite.encrypt.seal.serialization import (
        CIPHERTEXT_START,
        ciphertext_body,
        load_body,
        save_body,
    )

    head, rng = head_of(dim=30, classes=3), np.random.default_rng(5)
    n, primes = profile.degree, profile.data_primes
    context = seal_context(profile).context
    secret = api.KeyGenerator(context).secret_key()
    encryptor, level = api.Encryptor(context, secret), context.first_parms_id()

    def zero():
        """An encryption of zero by SEAL: rows of its first component, and its seed."""
        end = CIPHERTEXT_START + 8 * n * len(primes)
        raw = save_body(encryptor.encrypt_zero_symmetric(level), end + 81)
        rows = np.frombuffer(raw[CIPHERTEXT_START:end], "<u8").reshape(len(primes), n)
        return rows.astype(object), bytes(raw[-64:])

    def seeded(rows, seed):
        return b"".join(map(packed, rows, primes)) + seed

    def framed(kind, key, payload, meta, records=1):
        text = json.dumps(meta, sort_keys=True, separators=(",", ":")).encode()
        sizes = records, len(payload), len(text)
        raw = struct.pack("<8sHHHHQQII32s", b"LINALIGN", 3, kind, profile.id, 0, *sizes, 0, key)
        raw += text
        digest = hashlib.sha256(raw).digest()
        last = hashlib.sha256(digest + bytes(8) + payload).digest()
        return raw + digest + payload + last, digest, last

    public = seeded(*zero())
    key = hashlib.sha256(public).digest()
    public_file, _, _ = framed(2, key, public, {"profile": profile.name})

    state = rng.normal(size=30)
    state /= np.linalg.norm(state)
    bits = {"private": 70, "trusted": 31}[profile.name] - 1
    rows, seed = zero()
    for row, prime in zip(rows, primes, strict=True):
        for i, x in enumerate(state):  # one chunk of 30 dimensions: coefficient i is dimension i
            row[i] = (row[i] + round(x * 2**bits)) % prime
    # with 3 scores, coefficients from -60 to 89 reach them: 152, a multiple of 8
    window = [k % n for k in range(-60, 92)]
    payload = seeded(rows[:, window], seed)
    space = {"dim": 30, "model": "", "name": "", "normalize": False, "pooling": ""}
    shape = {"batch": 1, "chunks": 1, "n": 1, "n_outputs": 3, "norm_bits": 1}
    meta = shape | {"identity": "00" * 16, "profile": profile.name, "space": space}
    query, query_digest, record_digest = framed(3, key, payload, meta)

    provider = Provider(head, accept=[profile], keys=[PublicKey.load(public_file)])
    response = provider.score(Query.load(query))
    assert response.info.query == query_digest.hex()
    (reply,) = response.payloads
    assert reply[:32] == record_digest
    assert response.info.word_bits == 24
    triples = np.frombuffer(reply[32:], np.uint8).reshape(-1, 3).astype(int)
    words = triples @ [1, 1 << 8, 1 << 16]
    q, positions = profile.modulus, [29, 59, 89]
    first = np.zeros(n, dtype=object)
    first[positions] = words[n:].astype(object)
    lifted = [[(int(w) * q) >> 24 for w in part] for part in (first, words[:n])]
    raw = [np.array([v % p for v in part], "<u8").tobytes() for part in lifted for p in primes]

    # CKKS by SEAL decrypts it, once it is in number-theoretic form
    settings = api.EncryptionParameters(api.SCHEME_TYPE.CKKS)
    settings.set_poly_modulus_degree(n)
    settings.set_coeff_modulus([api.Modulus(p) for p in profile.primes])
    ckks = api.SEALContext(settings, True, api.SEC_LEVEL_TYPE.TC128)
    body = ciphertext_body(ckks.first_parms_id(), n, len(primes), raw, ntt=False)
    cipher, out = load_body(api.Ciphertext(), ckks, body), api.Plaintext()
    api.Evaluator(ckks).transform_to_ntt_inplace(cipher)
    key_rows = secret_rows(secret, profile)
    same = load_body(api.SecretKey(), ckks, secret_body(ckks, key_rows), secret=True)
    api.Decryptor(ckks, same).decrypt(cipher, out)
    slots = np.array(api.CKKSEncoder(ckks).decode_complex(out))
    roots = np.exp(1j * np.pi * np.array([pow(3, j, 2 * n) for j in range(n // 2)]) / n)
    values = [2 / n * (slots @ roots ** -float(k)).real for k in positions]
    scores = np.array(values) / 2.0 ** (bits + response.info.head_scale)
    assert np.abs(scores - (head.weight @ state + head.bias)).max() < 5e-3


def secret_rows(secret, profile):
    """A SEAL secret key's residues, prime by prime."""
    from linalign_lite.encrypt.seal.serialization import PLAINTEXT_START, save_body

    shape = len(profile.primes), profile.degree
    body = save_body(secret, PLAINTEXT_START + 8 * shape[0] * shape[1], secret=True)
    return np.frombuffer(body, "<u8", offset=PLAINTEXT_START).reshape(shape)


def secret_body(context, rows):
    """A secret key's body for another context of the same primes."""
    from linalign_lite.encrypt.seal.serialization import array_header

    start = struct.pack("<4QQd", *context.key_parms_id(), rows.size, 1.0)
    return [start, array_header(8 * rows.size), rows.tobytes()]


# -- accounts and budgets ------------------------------------------------------------------------


@pytest.fixture
def asked(tmp_path):
    account = SigningKey.generate()
    secret, public = keygen(PRIVATE, account)
    client = Client(secret, account=account)
    budget = Budget(tmp_path / "budget.sqlite", 10)
    provider = Provider(head_of(), keys=[public], budget=budget)
    return client, provider, budget, account.public


def test_a_budget_counts_states_and_then_refuses(asked, tmp_path):
    client, provider, budget, account = asked
    for count in (4, 6):
        provider.score(client.encrypt(np.zeros((count, DIM))))
    assert budget.remaining(account) == 0
    query = client.encrypt(np.zeros((1, DIM)))
    with pytest.raises(BudgetError, match=account.hex()[:8]) as caught:
        provider.score(query)
    assert caught.value.exit_code == 1
    query.save(tmp_path / "q")
    with pytest.raises(BudgetError):
        provider.score_file(tmp_path / "q", tmp_path / "r")
    assert not (tmp_path / "r").exists()
    assert budget.usage()[0].pending == 0


def test_bits_are_counted_too(asked):
    """A state of five scores, each of 24 bits at most: what the header's numbers say."""
    client, provider, budget, account = asked
    response = provider.score(client.encrypt(np.zeros((2, DIM))))
    (usage,) = budget.usage()
    told = min(response.info.word_bits, 90 - response.info.flood_bits)
    assert usage.bits == 2 * CLASSES * told == 2 * CLASSES * 24
    budget.change(account, bits=usage.bits + 10)
    with pytest.raises(BudgetError, match="more bits of scores than are left"):
        provider.score(client.encrypt(np.zeros((1, DIM))))
    assert budget.remaining(account) == 8


def test_a_new_key_of_an_account_has_no_budget_of_its_own(asked):
    client, provider, budget, account = asked
    signer = client._account
    provider.score(client.encrypt(np.zeros((7, DIM))))
    secret, public = keygen(PRIVATE, signer)
    more = Provider(head_of(), keys=[public], budget=budget)
    with pytest.raises(BudgetError, match="at most 3, the rest of 10"):
        more.score(Client(secret, account=signer).encrypt(np.zeros((4, DIM))))
    more.score(Client(secret, account=signer).encrypt(np.zeros((3, DIM))))
    assert budget.remaining(account) == 0


def test_nobody_else_uses_up_a_budget(asked):
    """A query that names another's key is refused unsigned, and signed by another account."""
    client, provider, budget, account = asked
    query = client.encrypt(np.eye(DIM)[:1], layout=Layout(4096, DIM, 1))
    thief = SigningKey.generate()
    unsigned = Query(dataclasses.replace(query.info, signed=False), query.payloads)
    theirs = dataclasses.replace(query, signature=thief.sign(signed_bytes(query.fingerprint)))
    other = client.encrypt(np.eye(DIM)[1:2], layout=Layout(4096, DIM, 1))
    moved = dataclasses.replace(other, signature=query.signature)
    altered = dataclasses.replace(query, payloads=other.payloads)
    cut = dataclasses.replace(query, signature=bytes(64))
    for bad in (unsigned, theirs, moved, altered, cut):
        with pytest.raises(SignatureError, match="not signed by the account of its key"):
            provider.score(bad)
    assert budget.usage() == ()
    assert provider.score(query)
    assert budget.remaining(account) == 9


def test_a_key_cannot_be_taken_into_another_account():
    """Registered by another, a payload is another key; a name without its signature is refused."""
    mine, thief = SigningKey.generate(), SigningKey.generate()
    _, public = keygen(TRUSTED, mine)
    assert PublicKey.load(public.to_bytes()) == public
    assert public.signed_by(thief).digest != public.digest
    for bad in (
        dataclasses.replace(public, account=thief.public),
        dataclasses.replace(public, signature=thief.sign(b"x")),
    ):
        with pytest.raises(SignatureError, match="not signed by the account that it names"):
            PublicKey.load(bad.to_bytes())


def test_a_key_without_account_has_no_budget(tmp_path):
    secret, public = keygen(PRIVATE)
    provider = Provider(head_of(), keys=[public], budget=Budget(tmp_path / "b", 10))
    with pytest.raises(MismatchError, match=r"belongs to no account.*keygen --account"):
        provider.score(Client(secret).encrypt(np.zeros((1, DIM))))
    # and without a budget a signature that no account explains is refused
    signed = Client(secret, account=SigningKey.generate()).encrypt(np.zeros((1, DIM)))
    with pytest.raises(SignatureError):
        Provider(head_of(), keys=[public]).score(signed)


def test_a_replay_gets_the_same_response_free(asked, tmp_path):
    client, provider, budget, account = asked
    query = client.encrypt(np.eye(DIM)[:3])
    first = provider.score(query)
    assert provider.score(query) == first
    query.save(tmp_path / "q")
    done = []
    provider.score_file(tmp_path / "q", tmp_path / "r", done.append)
    assert (tmp_path / "r").read_bytes() == first.to_bytes()
    assert budget.remaining(account) == 7
    # another head of the same budget does not charge it again, nor answer it
    other = Provider(head_of(seed=1), keys=provider._keys.values(), budget=budget)
    with pytest.raises(BudgetError, match="answered before"):
        other.score(query)
    assert budget.remaining(account) == 7
    # a closed account gets nothing more, not even that
    budget.change(account, closed=True)
    with pytest.raises(BudgetError, match="is closed"):
        provider.score(query)
    budget.change(account, closed=False)
    assert provider.score(query) == first


def test_a_response_that_is_not_kept_any_more_is_not_charged_again(asked):
    """Whoever has a copy of a query uses up nobody's budget with it."""
    client, provider, budget, account = asked
    query = client.encrypt(np.eye(DIM)[:3])
    provider.score(query)
    for path in Path(budget.name).with_name("budget.sqlite.responses").iterdir():
        path.unlink()
    with pytest.raises(BudgetError, match=r"answered before.*make the query again"):
        provider.score(query)
    assert budget.remaining(account) == 7


def test_kept_responses_stay_within_their_bytes(tmp_path):
    kept = KeptResponses(tmp_path / "kept", max_bytes=250)
    for i in range(5):
        kept.keep(str(i), lambda f: f.write(bytes(100)))
        os.utime(tmp_path / "kept" / f"{i}.response", (i, i))
    assert [kept.open(str(i)) is not None for i in range(5)] == [False] * 3 + [True] * 2
    kept.keep("4", lambda f: f.write(b"other"))
    assert kept.open("4").read() == bytes(100)
    kept.keep("large", lambda f: f.write(bytes(1000)))  # never the one that was just kept
    assert len(kept.open("large").read()) == 1000
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o700


def test_looks_at_all_kept_responses_are_rare(tmp_path, monkeypatch):
    """One at the first, and one for each 1/64 of the bytes: 64 here; then down to 7/8."""
    looks, look = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda *a: (looks.append(1), look(*a))[1])
    kept = KeptResponses(tmp_path / "kept", max_bytes=4096)
    for i in range(13):
        kept.keep(str(i), lambda f: f.write(bytes(16)))
    assert len(looks) == 1 + 12 // 4
    for i in range(13, 1000):
        kept.keep(str(i), lambda f: f.write(bytes(16)))
        assert 16 * len(list((tmp_path / "kept").iterdir())) <= 4096 * 7 / 8 + 64
    assert kept.open("999")
    assert not kept.open("700")


def test_a_response_too_large_to_be_kept_is_not_scored(asked, monkeypatch, tmp_path):
    client, provider, budget, account = asked
    query = client.encrypt(np.zeros((2, DIM)))
    first = len(provider.score(query).to_bytes())
    query = client.encrypt(np.zeros((2, DIM)))
    query.save(tmp_path / "q")
    monkeypatch.setattr(KeptResponses, "most_bytes", first - 1)
    sizes = rf"got {first} bytes, expected at most {first - 1} .*fewer states"
    with monkeypatch.context() as patched:
        patched.setattr(Provider, "_scored", None)
        for score in (
            lambda: provider.score(query),
            lambda: provider.score_file(tmp_path / "q", tmp_path / "r"),
        ):
            with pytest.raises(MismatchError, match=f"response would be too large: {sizes}"):
                score()
    assert (budget.remaining(account), budget.usage()[0].pending) == (8, 0)
    monkeypatch.setattr(KeptResponses, "most_bytes", first)
    assert provider.score(query)


def test_responses_are_kept_in_a_folder_of_ones_own(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "file").write_bytes(b"")
    for name in ("link", "file"):
        with pytest.raises(InputError, match="expected a folder of your own"):
            KeptResponses(tmp_path / name).keep("x", lambda f: f.write(b"x"))
    kept = KeptResponses(tmp_path / "kept")
    kept.keep("x", lambda f: f.write(b"x"))
    (tmp_path / "kept" / "y.response").symlink_to(tmp_path / "file")
    assert kept.open("y") is None
    assert list((tmp_path / "elsewhere").iterdir()) == []


def score_interrupted(provider, query, monkeypatch, place):
    """Score until ``place``, where Ctrl-C comes."""

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(f"linalign_lite.encrypt.{place}", interrupted)
        with pytest.raises(KeyboardInterrupt):
            provider.score(query)


def test_an_error_after_a_response_was_kept_does_not_make_it_free(asked, monkeypatch):
    client, provider, budget, account = asked
    query = client.encrypt(np.zeros((2, DIM)))
    score_interrupted(provider, query, monkeypatch, "budgets.kept_responses.KeptResponses._forget")
    assert (budget.remaining(account), budget.usage()[0].pending) == (8, 0)
    assert provider.score(query)
    assert budget.remaining(account) == 8

    def failed(*_):
        raise OSError(24, "too many open files")

    monkeypatch.setattr(KeptResponses, "_forget", failed)
    provider.score(client.encrypt(np.zeros((2, DIM))))
    assert budget.remaining(account) == 6


def test_ctrl_c_while_a_query_is_scored_costs_nothing(asked, monkeypatch):
    client, provider, budget, account = asked
    query = client.encrypt(np.zeros((2, DIM)))
    score_interrupted(provider, query, monkeypatch, "scoring.Scorer.score")
    assert budget.usage() == ()
    provider.score(query)
    assert budget.remaining(account) == 8


@pytest.mark.parametrize("counted", [True, False])
def test_a_file_altered_after_it_was_checked_is_not_scored(asked, tmp_path, monkeypatch, counted):
    """With a digest that agrees, as anybody can write it: what was signed is what is scored."""
    client, provider, budget, account = asked
    if not counted:
        secret, public = keygen(PRIVATE)
        client, provider = Client(secret), Provider(head_of(), keys=[public])
    layout = Layout(4096, DIM, 1)
    query = client.encrypt(np.eye(DIM)[:2], layout=layout)
    other = client.encrypt(np.eye(DIM)[2:4], layout=layout)
    query.save(tmp_path / "q")
    check = provider._check

    def checked(*args):
        check(*args)
        swapped = dataclasses.replace(query, payloads=(query.payloads[0], other.payloads[1]))
        (tmp_path / "q").write_bytes(swapped.to_bytes())

    # the reader keeps the file open, so it is written to in place
    monkeypatch.setattr(provider, "_check", checked)
    with pytest.raises(FormatError, match="altered while it was read"):
        provider.score_file(tmp_path / "q", tmp_path / "r")
    assert not (tmp_path / "r").exists()
    assert budget.remaining(account) == (8 if counted else 10)


def test_a_query_has_the_records_that_it_states(asked):
    client, provider, budget, _ = asked
    query = client.encrypt(np.zeros((2, DIM)), layout=Layout(4096, DIM, 1))
    for payloads in (query.payloads * 2, query.payloads[:1]):
        with pytest.raises(FormatError, match="records that its header states"):
            provider.score(dataclasses.replace(query, payloads=payloads))
    assert budget.usage() == ()


def test_keys_that_anybody_can_sign_for_are_refused():
    """Points of small order: such a signature verifies for any data."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    one = bytes([1]) + bytes(31)
    Ed25519PublicKey.from_public_bytes(one).verify(one + bytes(32), b"anything at all")
    _, public = keygen(TRUSTED, SigningKey.generate())
    negative = bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa")
    for account in (bytes(32), one, b"\xec" + b"\xff" * 30 + b"\x7f", negative):
        with pytest.raises(InputError, match="anybody can sign for"):
            VerifyingKey(account)
        forged = dataclasses.replace(public, account=account, signature=account + bytes(32))
        with pytest.raises(FormatError, match="anybody can sign for"):
            PublicKey.load(forged.to_bytes())


def badly_ended(client, query):
    """The query, signed, with a last record that holds no residues."""
    bad = dataclasses.replace(query, payloads=(*query.payloads[:-1], b"\xff" * 46144))
    return dataclasses.replace(bad, signature=client._signature(bad.fingerprint))


def test_what_is_refused_costs_nothing(asked, tmp_path):
    """Errors before scoring, and damage found while the file is read, are not charged."""
    client, provider, budget, account = asked
    query = client.encrypt(np.zeros((3, DIM)), layout=Layout(4096, DIM, 1))
    with pytest.raises(PrecisionError):
        Provider(head_of(norm=1e6), keys=provider._keys.values(), budget=budget).score(query)
    raw = bytearray(query.to_bytes())
    raw[-104] ^= 1
    (tmp_path / "q").write_bytes(raw)
    with pytest.raises(FormatError, match="record 2"):
        provider.score_file(tmp_path / "q", tmp_path / "r")
    with pytest.raises(FormatError, match="not below its prime"):
        provider.score(badly_ended(client, query))
    assert budget.remaining(account) == 10
    assert budget.usage() == ()
    query.save(tmp_path / "q")
    with pytest.raises(InputError, match="a folder"):
        provider.score_file(tmp_path / "q", tmp_path)
    assert budget.usage() == ()


def test_a_bad_last_record_is_found_before_anything_is_scored(asked, monkeypatch):
    """Free computing: scored until the bad record, then refunded."""
    client, provider, _, _ = asked
    query = client.encrypt(np.zeros((3, DIM)), layout=Layout(4096, DIM, 1))
    scored = []
    monkeypatch.setattr("linalign_lite.encrypt.scoring.Scorer.score", lambda *a: scored.append(a))
    with pytest.raises(FormatError, match="not below its prime"):
        provider.score(badly_ended(client, query))
    assert scored == []


def test_a_query_altered_while_it_is_scored_is_charged(asked, monkeypatch):
    client, provider, budget, account = asked

    def damaged(*_):
        raise FormatError("it was altered")

    monkeypatch.setattr("linalign_lite.encrypt.scoring.Scorer.score", damaged)
    with pytest.raises(FormatError, match="it was altered"):
        provider.score(client.encrypt(np.zeros((2, DIM))))
    assert budget.remaining(account) == 8
    assert budget.usage()[0].pending == 0


def test_a_query_cannot_be_altered_and_asked_for_free(asked):
    """The charge is bound to every record, not to the header alone."""
    client, provider, budget, account = asked
    query = client.encrypt(np.zeros((2, DIM)), layout=Layout(4096, DIM, 1))
    provider.score(query)
    swapped = dataclasses.replace(query, payloads=query.payloads[::-1])
    signature = client._account.sign(signed_bytes(swapped.fingerprint))
    provider.score(dataclasses.replace(swapped, signature=signature))
    assert budget.remaining(account) == 6
    digest = query.info.header().digest
    assert isinstance(digest_record(digest, 0, b""), Record)


def test_a_key_of_another_does_not_help():
    """Without accounts, a query that names another's key is masked under that key: useless."""
    _, public = keygen(PRIVATE)
    thief = Client(keygen(PRIVATE)[0])
    query = thief.encrypt(np.eye(DIM)[:1], layout=Layout(4096, DIM, 1))
    named = Query(dataclasses.replace(query.info, key=public.digest), query.payloads)
    response = Provider(head_of(), keys=[public]).score(named)
    mine = dataclasses.replace(
        response, info=dataclasses.replace(response.info, key=query.info.key)
    )
    scores = thief.decrypt(mine).values[0]
    exact = head_of().weight[:, 0] + head_of().bias
    assert np.abs(scores - exact).max() > 5  # noise over the whole range


def test_a_limit_must_make_sense(tmp_path):
    with pytest.raises(InputError):
        Budget(tmp_path / "b", 0)
    with pytest.raises(InputError):
        Budget(tmp_path / "b", 5, bits=0)
    book = Budget(tmp_path / "b", 5)
    for bad in ({"limit": 0}, {"bits": -1}):
        with pytest.raises(InputError, match="limit is not usable"):
            book.change(bytes(32), **bad)
    with pytest.raises(InputError, match="names no account"):
        book.change(b"short", limit=5)

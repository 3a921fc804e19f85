"""The framed form: golden bytes; damaged and hostile files raise named errors."""

import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.space import Space
from linalign_lite.encrypt import wire
from linalign_lite.encrypt.client import Client
from linalign_lite.encrypt.fitting.descriptions import AnswerInfo, OfferInfo
from linalign_lite.encrypt.key_proof import load_proof, proven
from linalign_lite.encrypt.keys import PublicKey, SecretKey, keygen
from linalign_lite.encrypt.messages import Query, QueryInfo, Response
from linalign_lite.encrypt.modular import packed_size, seeded_size
from linalign_lite.encrypt.packing import Layout
from linalign_lite.encrypt.parameters import PRIVATE, TRUSTED
from linalign_lite.encrypt.provider import Provider
from linalign_lite.encrypt.response_encoding import product_size
from linalign_lite.encrypt.wire import Header, Kind, Reader, framed_bytes
from linalign_lite.errors import FormatError, InputError, LinalignError, MismatchError

GOLDEN = Path(__file__).parent / "golden"
SETS = [TRUSTED, PRIVATE]
HEAD = Head(np.array([[1.0, -2.0, 0.5], [0.25, 0.0, 3.0]]), np.array([0.5, -1.0]), ("no", "yes"))
STATES = np.array([[1.0, 2.0, 3.0], [-1.0, 0.5, 0.25]], dtype=np.float32)


FIT = {"parameters": PRIVATE, "key": bytes(32), "n": 8, "folds": 2, "seed": 0, "columns": 4}
FITS = (
    OfferInfo(**FIT, text_digest="0" * 64, identity="0" * 32),
    AnswerInfo(**FIT, offer="0" * 64, space=Space(2), flood_bits=74),
)


def made_up(info):
    """A file of an encrypted fit with records of noise: tests/encrypt/fitting has real ones."""
    header = info.header()
    return framed_bytes(header, [os.urandom(header.record_size) for _ in range(header.n_records)])


class Case:
    """One file of each kind, and a method that reads each to its end."""

    def __init__(self, parameters):
        self.secret, self.public = keygen(parameters)
        self.client = Client(self.secret)
        self.provider = Provider(HEAD, accept=SETS, keys=[self.public])
        # one state to a record, so that there are two
        self.query = self.client.encrypt(STATES, layout=Layout(parameters.degree, 3, 1))
        self.response = self.provider.score(self.query)
        framed = wire.Header(
            Kind.SECRET_KEY, parameters, self.secret.digest, 1, len(self.secret.material)
        )
        self.proven = proven(self.secret, self.public)
        size = len(self.proven.proof)
        proof = wire.Header(Kind.PROOF, parameters, self.public.digest, 1, size)
        self.files = {
            Kind.SECRET_KEY: framed_bytes(framed, [self.secret.material]),
            Kind.PUBLIC_KEY: self.public.to_bytes(),
            Kind.QUERY: self.query.to_bytes(),
            Kind.RESPONSE: self.response.to_bytes(),
            Kind.PROOF: framed_bytes(proof, [self.proven.proof]),
            **{info.KIND: made_up(info) for info in FITS},
        }

    def read(self, kind, data):
        if kind is Kind.SECRET_KEY:
            with wire.open_framed(data, kind) as reader:
                return [r.payload for r in reader]
        if kind is Kind.PUBLIC_KEY:
            return PublicKey.load(data)
        if kind is Kind.PROOF:
            return load_proof(data, self.public)
        if kind is Kind.QUERY:
            return self.provider.score(Query.load(data))
        for info in FITS:
            if kind is info.KIND:
                with wire.open_framed(data, kind) as reader:
                    type(info).from_header(reader.header, reader.name)
                    return [r.payload for r in reader]
        return self.client.decrypt(Response.load(data), self.query)


@pytest.fixture(scope="module")
def cases():
    return {p.name: Case(p) for p in SETS}


@pytest.fixture(params=SETS, ids=lambda p: p.name)
def case(request, cases):
    return cases[request.param.name]


def header_size(data):
    return 72 + struct.unpack_from("<I", data, 32)[0] + 32


def places(data, rng, count):
    """Offsets of the whole header, of the last digest and of a sample of the rest."""
    head = header_size(data)
    middle = rng.integers(head, len(data) - 32, count).tolist()
    return sorted({*range(head), *range(len(data) - 32, len(data)), *middle})


# -- golden bytes --------------------------------------------------------------------------------


def golden_header():
    space = Space(384, "ab" * 32, "mini", "mean", True)
    shape = {"n": 7, "chunks": 1, "batch": 1, "norm_bits": 4, "space": space, "identity": "0f" * 16}
    size = {"record_size": 13024, "n_outputs": 2}
    return QueryInfo(parameters=PRIVATE, key=bytes(range(32)), **size, **shape).header()


def test_golden_query_header():
    assert golden_header().encoded.hex() == (GOLDEN / "query-header-v3.hex").read_text().strip()


def test_header_layout_is_the_documented_one():
    raw = golden_header().encoded
    assert raw[:8] == b"LINALIGN"
    assert struct.unpack_from("<HHHH", raw, 8) == (3, 3, 5, 0)
    assert struct.unpack_from("<QQII", raw, 16) == (7, 13024, len(raw) - 72 - 32, 0)
    assert raw[40:72] == bytes(range(32))
    assert hashlib.sha256(raw[:-32]).digest() == raw[-32:]
    assert json.loads(raw[72:-32])["identity"] == "0f" * 16


@pytest.mark.parametrize("profile", [PRIVATE, TRUSTED], ids=lambda p: p.name)
def test_golden_files_of_version_3_are_read(profile, tmp_path):
    for name in ("secret.key", "public.key", "two.query", "two.response"):
        shutil.copy(GOLDEN / f"v3-{profile.name}-{name}", tmp_path / name)
    (tmp_path / "secret.key").chmod(0o600)
    client = Client(SecretKey.load(tmp_path / "secret.key"))
    public = PublicKey.load(tmp_path / "public.key")
    assert public.digest == client._key.digest
    exact = HEAD.apply(STATES.astype(np.float64))
    scores = client.decrypt_from(tmp_path / "two.response", tmp_path / "two.query")
    assert scores.labels == ("no", "yes")
    assert np.abs(scores.values - exact).max() < 1e-3
    provider = Provider(HEAD, accept=[profile], keys=[public])
    again = provider.score(Query.load(tmp_path / "two.query"))
    assert np.abs(client.decrypt(again).values - exact).max() < 1e-3


def test_files_of_older_versions_are_refused_by_name():
    """Neither was released: 1 did not hide the head, 2 had ciphertexts in another form."""
    for name, load, version in (
        ("v1-small.query", Query.load, 1),
        ("v2-trusted-two.query", Query.load, 2),
    ):
        with pytest.raises(
            FormatError, match=rf"version.*got {version}, expected 3.*make it again"
        ):
            load(GOLDEN / name)


def test_documents_name_existing_tests_and_real_sizes():
    """Every test that docs/SECURITY.md names exists; docs/FORMAT.md states the real sizes."""
    docs = Path(__file__).parents[2] / "docs"
    tests = (Path(__file__).parents[1]).rglob("test_*.py")
    here = "".join(p.read_text(encoding="utf-8") for p in tests)
    named = re.findall(r"`(test_\w+)`", (docs / "SECURITY.md").read_text(encoding="utf-8"))
    assert len(named) > 8
    assert [n for n in named if f"def {n}(" not in here] == []
    text = (docs / "FORMAT.md").read_text(encoding="utf-8")
    pair = [seeded_size(count, PRIVATE.data_primes) for count in (1152, 4096)]
    secret = sum(packed_size(4096, prime) for prime in PRIVATE.primes)
    for size in (secret, *pair, product_size(4096, 10, 24)):
        assert f"{size:,}" in text
    for prime in (*PRIVATE.primes, *TRUSTED.primes):
        assert str(prime) in text


# -- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(Kind))
def test_every_altered_byte_is_found(case, kind):
    data = case.files[kind]
    rng = np.random.default_rng(kind)
    case.read(kind, data)
    for place in places(data, rng, 150):
        bad = bytearray(data)
        bad[place] ^= 1 << int(rng.integers(8))
        with pytest.raises((FormatError, MismatchError)):
            case.read(kind, bytes(bad))


def test_every_bit_of_a_small_file(cases):
    data = cases["trusted"].files[Kind.PUBLIC_KEY]
    for place in range(len(data)):
        for bit in range(8):
            bad = bytearray(data)
            bad[place] ^= 1 << bit
            with pytest.raises(FormatError):
                PublicKey.load(bytes(bad))


@pytest.mark.parametrize("kind", list(Kind))
def test_every_truncation_and_every_addition_is_found(case, kind):
    data = case.files[kind]
    for length in places(data, np.random.default_rng(kind), 150):
        with pytest.raises(FormatError):
            case.read(kind, data[:length])
    for more in (b"\0", data):
        with pytest.raises(FormatError, match="does not have the size"):
            case.read(kind, data + more)


def test_damaged_files_on_disk(case, tmp_path):
    for kind in (Kind.QUERY, Kind.RESPONSE):
        data = bytearray(case.files[kind])
        data[-40] ^= 1
        (tmp_path / kind.name).write_bytes(data)
    out = tmp_path / "out"
    with pytest.raises(FormatError, match="record 1 does not agree"):
        case.provider.score_file(tmp_path / "QUERY", out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["QUERY", "RESPONSE"]
    with pytest.raises(FormatError, match="record 1 does not agree"):
        case.client.decrypt_from(tmp_path / "RESPONSE")


def test_records_cannot_change_places_or_files(case):
    data, size = case.files[Kind.QUERY], case.query.info.record_size + 32
    start = header_size(data)
    assert len(data) == start + 2 * size
    first, second = data[start : start + size], data[start + size :]
    with pytest.raises(FormatError, match="record 0"):
        Query.load(data[:start] + second + first)
    other = case.client.encrypt(STATES, layout=case.query.info.layout).to_bytes()
    with pytest.raises(FormatError, match="record 0"):
        Query.load(data[:start] + other[start:])


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("found", list(Kind))
def test_each_kind_refuses_the_others_by_name(cases, kind, found):
    case = cases["trusted"]
    if kind is found:
        return
    with pytest.raises(FormatError, match=f"got {found.title}, expected {kind.title}"):
        case.read(kind, case.files[found])


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.binary(max_size=300), st.sampled_from(list(Kind)), st.booleans())
def test_noise_is_refused(data, kind, with_magic):
    if with_magic:
        data = b"LINALIGN\x03\x00" + bytes([kind]) + b"\0" + data
    with pytest.raises(FormatError), wire.open_framed(data, kind) as reader:
        list(reader)


# -- hostile files with digests that agree ---------------------------------------------------------


def forged(header, meta=None, payloads=None, **head):
    """A file with any description and digests that agree."""
    raw_meta = (
        meta
        if isinstance(meta, bytes)
        else wire._json(
            {"profile": header.parameters.name} | dict(header.meta if meta is None else meta)
        )
    )
    fields = {
        "magic": b"LINALIGN",
        "version": wire.VERSION,
        "kind": header.kind,
        "parameters": header.parameters.id,
        "zero": 0,
        "n": header.n_records,
        "size": header.record_size,
        "length": len(raw_meta),
        "zeros": 0,
        "key": header.key,
    } | head
    raw = wire._HEADER.pack(*fields.values()) + raw_meta
    digest = hashlib.sha256(raw).digest()
    out = raw + digest
    for i, payload in enumerate(payloads or []):
        out += payload + wire.digest_record(digest, i, payload).digest
    return out


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"magic": b"PK\x03\x04abcd"}, "is no key, query or response of linalign-lite"),
        ({"version": 4}, "version that this library does not read"),
        ({"version": 0}, "version"),
        ({"kind": 11}, "got kind 11"),
        ({"parameters": 3}, "unknown parameter set"),
        ({"zero": 1}, "not usable"),
        ({"zeros": 1}, "not usable"),
        ({"n": 0}, "not usable"),
        ({"n": 2**63}, "not usable"),
        ({"n": 2**31}, "size that its header states"),
        ({"size": 0}, "not usable"),
        ({"size": 2**62}, "not usable"),
        ({"size": 2**29}, "size that its header states"),
        ({"length": 2**31}, "too large"),
        ({"length": 10**4}, "too large|ends early|digest"),
    ],
)
def test_stated_sizes_are_verified(cases, head, message):
    case = cases["trusted"]
    data = forged(case.query.info.header(), payloads=case.query.payloads, **head)
    with pytest.raises(FormatError, match=message):
        Query.load(data)


@pytest.mark.parametrize(
    "meta",
    [
        b"",
        b"[]",
        b"nul",
        b'{"a": 1}',
        b'{"b":1,"a":1}',
        b'{"a":1,"a":1}',
        b'{"a":NaN}',
        b"\xff",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a":' + b"9" * 10_000 + b"}",
    ],
)
def test_descriptions_that_are_not_canonical(cases, meta):
    header = cases["trusted"].query.info.header()
    with pytest.raises(FormatError, match="description"):
        Query.load(forged(header, meta, [b"\0" * header.record_size] * 2))


def test_an_empty_field_of_a_space_that_is_left_out_is_refused(cases):
    """Read without it, the query would have another digest than its bytes."""
    query = cases["trusted"].query
    header = query.info.header()
    meta = json.loads(wire._json(header.meta))
    assert "prompt" not in meta["space"]
    meta["space"]["prompt"] = "Q: "
    asked = Query.load(forged(header, meta, query.payloads))
    assert asked.info.space.prompt == "Q: "
    assert Query.load(asked.to_bytes()).digest == asked.digest
    meta["space"]["prompt"] = ""
    with pytest.raises(FormatError, match="empty field that is left out"):
        Query.load(forged(header, meta, query.payloads))


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-2, 70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.lists(st.text(max_size=2), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.data())
def test_descriptions_with_any_field_replaced(cases, data):
    """A false description leads to a named error or to useless scores, nothing else."""
    case = cases[data.draw(st.sampled_from(sorted(cases)))]
    kind = data.draw(st.sampled_from([Kind.QUERY, Kind.RESPONSE]))
    thing = case.query if kind is Kind.QUERY else case.response
    header = thing.info.header()
    meta = json.loads(wire._json(header.meta))
    inside = meta["space"] if kind is Kind.QUERY and data.draw(st.booleans()) else meta
    name = data.draw(st.sampled_from(sorted(inside)))
    if data.draw(st.integers(0, 9)) == 0:
        del inside[name]
    else:
        inside[name] = data.draw(JUNK)
    raw = forged(header, meta, thing.payloads)
    try:
        case.read(kind, raw)
    except LinalignError as e:
        assert isinstance(e, InputError)  # noqa: PT017 (either outcome is right)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (Kind.QUERY, {"space": {"name": "a\x1b[2J"}}, "printable"),
        (Kind.QUERY, {"space": {"model": "a" * 257}}, "got 257 long, expected 0 to 256"),
        (Kind.QUERY, {"space": {"pooling": "median"}}, r"space\.pooling is not usable: got median"),
        (Kind.QUERY, {"space": {"dim": 2**21}}, r"space\.dim is not usable: got 2097152"),
        (Kind.QUERY, {"space": {"dim": True}}, r"space\.dim is not usable: got true or false"),
        (Kind.QUERY, {"chunks": 4}, "cannot be cut"),
        (Kind.QUERY, {"batch": 0}, r"\.batch is not usable: got 0, expected 1 to 16384"),
        (Kind.QUERY, {"batch": 10**4000}, r"\.batch is not usable: got 10{39}, expected 1 to"),
        (Kind.QUERY, {"batch": 2}, "does not fit its records"),
        (Kind.QUERY, {"batch": 2000}, "cannot share ciphertexts"),
        (Kind.QUERY, {"n_outputs": 0}, r"\.n_outputs is not usable: got 0"),
        (Kind.QUERY, {"n_outputs": 2}, "size that its shape needs"),
        (Kind.QUERY, {"n_outputs": 2000}, "size that its shape needs"),
        (Kind.QUERY, {"n": 0}, r"\.n is not usable: got 0"),
        (Kind.QUERY, {"n": 3}, "does not fit its records"),
        (Kind.QUERY, {"n": 2**60}, r"\.n is not usable: got 1152921504606846976"),
        (Kind.QUERY, {"profile": "trusted"}, "names another profile"),
        (Kind.QUERY, {"norm_bits": -1}, r"\.norm_bits is not usable: got -1, expected 0 to 24"),
        (Kind.QUERY, {"identity": "0F" * 16}, r"\.identity is not usable.*32 to 32.*\[0-9a-f\]"),
        (Kind.QUERY, {"extra": 1}, "has unknown fields: got extra"),
        (Kind.RESPONSE, {"labels": ["\ud800", "b"]}, r"\.labels\[0\] is not usable.*printable"),
        (Kind.RESPONSE, {"labels": ["a"]}, "do not fit its classes"),
        (Kind.RESPONSE, {"labels": ["a", "a"]}, "response are not usable.*distinct, printable"),
        (Kind.RESPONSE, {"labels": ["", "b"]}, "response are not usable.*distinct, printable"),
        (Kind.RESPONSE, {"labels": [1, 2]}, r"\.labels\[0\] is not usable: got a whole number"),
        (
            Kind.RESPONSE,
            {"softcap": -1.0},
            r"\.softcap is not usable: got -1.0, expected a float above 0",
        ),
        (
            Kind.RESPONSE,
            {"softcap": 1},
            r"\.softcap is not usable: got 1, expected a float above 0",
        ),
        (Kind.RESPONSE, {"flood_bits": 92}, "its flooding is not usable: expected at most 84 bits"),
        (Kind.RESPONSE, {"word_bits": 25}, "its words are not usable: expected 24 or 32"),
        (Kind.RESPONSE, {"word_bits": 8}, r"\.word_bits is not usable: got 8, expected 24 to 32"),
        (Kind.RESPONSE, {"word_bits": 32}, "size that its shape needs"),
        (Kind.RESPONSE, {"head_scale": 92}, "scale is not usable"),
        (Kind.RESPONSE, {"rounding_bits": 40}, "its weights have no bits: got 40 rounded off"),
        (Kind.RESPONSE, {"rounding_bits": -1}, r"\.rounding_bits is not usable: got -1"),
        (Kind.RESPONSE, {"head_scale": -1}, r"\.head_scale is not usable: got -1"),
        (Kind.RESPONSE, {"query": "00"}, r"\.query is not usable: got 2 long, expected 64 to 64"),
        (Kind.RESPONSE, {"n_outputs": 0}, r"\.n_outputs is not usable: got 0"),
    ],
)
def test_descriptions_out_of_range(cases, kind, change, message):
    case = cases["private"]
    thing = case.query if kind is Kind.QUERY else case.response
    header = thing.info.header()
    meta = json.loads(wire._json(header.meta))
    space = change.get("space")
    meta = {**meta, "space": {**meta["space"], **space}} if space else meta | change
    with pytest.raises(FormatError, match=message):
        case.read(kind, forged(header, meta, thing.payloads))


@pytest.mark.parametrize("kind", [Kind.QUERY, Kind.RESPONSE])
def test_every_field_of_a_description_must_be_there(cases, kind):
    case = cases["trusted"]
    thing = case.query if kind is Kind.QUERY else case.response
    header = thing.info.header()
    for missing in header.meta:
        meta = {name: value for name, value in header.meta.items() if name != missing}
        with pytest.raises(FormatError, match=f"lacks fields: expected {missing}$"):
            case.read(kind, forged(header, meta, thing.payloads))


def test_what_could_not_be_read_back_is_not_written(cases):
    states = HiddenStates(STATES, Space(3, "", "line\nbreak"))
    with pytest.raises(FormatError, match=r"space\.name is not usable.*printable"):
        cases["trusted"].client.encrypt(states)


def test_what_is_equal_but_of_another_type_is_not_taken_for_what_was_checked(cases):
    """1, True and 1.0 are equal in Python but differ in JSON."""
    client = cases["trusted"].client
    for space in (Space(3, normalize=True), Space(3, normalize=1), Space(np.int64(3))):
        states, good = HiddenStates(STATES, space), type(space.normalize) is bool
        for _ in range(2):
            if good and type(space.dim) is int:
                assert Query.load(client.encrypt(states).to_bytes()).info.space == space
                continue
            with pytest.raises(
                FormatError, match=r"space\.\w+ is not usable: got (a whole number|int64), expected"
            ):
                client.encrypt(states)


def test_a_response_that_could_not_be_read_back_is_not_written(cases):
    """Each field is checked, each time."""
    info = cases["trusted"].response.info
    info.require_readable()
    for change in ({"flood_bits": 92}, {"softcap": 1}, {"labels": ("one",) * 9}, {"norm_bits": 25}):
        for _ in range(2):
            with pytest.raises(FormatError):
                dataclasses.replace(info, **change).require_readable()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for load in (Query.load, Response.load, PublicKey.load, SecretKey.load):
        with pytest.raises(InputError, match="got a pipe or a device, expected a file"):
            load(tmp_path / "pipe")


@pytest.mark.parametrize("name", ["trusted", "private"])
def test_records_of_another_size_are_refused(cases, name):
    case = cases[name]
    header = case.query.info.header()
    short = [p[:-1] for p in case.query.payloads]
    with pytest.raises(FormatError, match="size that its shape needs"):
        case.provider.score(Query.load(forged(header, None, short, size=header.record_size - 1)))
    header = case.response.info.header()
    short = [p[:-1] for p in case.response.payloads]
    raw = forged(header, None, short, size=header.record_size - 1)
    with pytest.raises(FormatError, match="size that its shape needs"):
        case.client.decrypt(Response.load(raw))


# -- writing --------------------------------------------------------------------------------------


def test_writer_checks_what_it_writes():
    header = Header(Kind.QUERY, TRUSTED, bytes(32), 1, 4)
    for wrong in ([b"12345"], [b"1234", b"1234"]):
        with pytest.raises(InputError, match="does not fit"):
            framed_bytes(header, wrong)
    with pytest.raises(InputError, match="not complete"):
        framed_bytes(header, [])
    assert framed_bytes(header, [b"1234"])[-36:-32] == b"1234"
    with pytest.raises(InputError, match="too large for one file"):
        framed_bytes(Header(Kind.QUERY, TRUSTED, bytes(32), 1, 2**31), [])


def test_reading_holds_one_record_at_a_time():
    header = Header(Kind.QUERY, TRUSTED, bytes(32), 5, 1000)
    buffer = io.BytesIO(framed_bytes(header, [bytes([i]) * 1000 for i in range(5)]))
    reader = Reader(buffer, Kind.QUERY, "it")
    start = buffer.tell()
    records = iter(reader)
    for i in range(5):
        assert next(records).payload == bytes([i]) * 1000
        assert buffer.tell() == start + (i + 1) * 1032

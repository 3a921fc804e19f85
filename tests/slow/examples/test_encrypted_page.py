"""Encrypted queries that a page makes with node-seal, scored by the Python provider."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pages import artefact, until

from linalign_lite import (
    Head,
    Provider,
    PublicKey,
    Query,
    Space,
    build_index,
    extract,
    fuse,
    open_index,
    save,
)
from linalign_lite.encrypt.messages import Response
from linalign_lite.encrypt.precision import rounding_step
from linalign_lite.storage.schema import plain
from linalign_lite.vectors.locations import open_vectors

pytest.importorskip("onnx", reason="onnx is absent: pip install '.[onnx]'")
COMMAND = str(Path(sys.executable).with_name("linalign-lite"))
SEAL = "./node_modules/node-seal/dist/index_throws.js"


# --- the page, driven as by a user ----------------------------------------------------------------


@pytest.fixture
def downloads(browser, tmp_path):
    folder = tmp_path / "downloads"
    folder.mkdir()
    browser.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)}
    )

    def fetch(element: str, name: str) -> Path:
        (folder / name).unlink(missing_ok=True)
        browser.find_element("id", element).click()
        end = time.monotonic() + 30
        while not (folder / name).exists():
            assert time.monotonic() < end, f"{name} was not downloaded"
            time.sleep(0.05)
        return folder / name

    return fetch


def test_a_page_asks_and_the_provider_scores(browser, served, topics, downloads, tmp_path):
    """The artefact has model and map, the provider the head. 90 texts, 28 per record."""
    folder, address = served
    model, first, head, texts = topics
    place = folder / "headless"
    place.mkdir()
    fuse(place / "model.onnx", model, map=first)
    shutil.copy(model.folder / "tokenizer.json", place)
    save(tmp_path / "topics.head.npz", head)
    texts = texts[:90]

    browser.get_log("performance")
    browser.get(f"{address}?artefact=headless")
    assert until(browser, "ready", "failed")[0] == "ready"
    assert not browser.find_element("id", "score").is_enabled()
    browser.execute_script(
        "document.getElementById('texts').value = arguments[0]", "\n".join(texts)
    )
    browser.execute_script("document.getElementById('elsewhere').open = true")
    browser.find_element("id", "encrypt").click()
    state, said = until(browser, "encrypted", "failed")
    assert (state, said[:8]) == ("encrypted", "90 texts")
    query, public = downloads("query", "page.query"), downloads("public", "public.key")

    out = tmp_path / "page.response"
    done = subprocess.run(
        [COMMAND, "score", query, out, "--head", tmp_path / "topics.head.npz", "--public", public],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    browser.find_element("id", "response").send_keys(str(out))
    assert until(browser, "decrypted", "failed")[0] == "decrypted"
    rows = browser.execute_script(
        "return [...document.querySelector('#scores').tBodies[0].rows].map(r => "
        "[...r.cells].map(c => c.textContent))"
    )
    want = (head @ first).apply(extract(model, texts).states)
    assert [row[0] for row in rows] == list(texts)
    assert np.abs(np.array([row[1:] for row in rows], dtype=float) - want).max() <= 1e-2
    names = browser.execute_script(
        "return [...document.querySelectorAll('#scores th')].map(c => c.textContent)"
    )
    assert names == ["text", *head.labels]

    # nothing was sent: not the secret key, and the two files only where the user puts them
    events = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    asked = [e["params"]["request"] for e in events if e["method"] == "Network.requestWillBeSent"]
    here = (address.removesuffix("browser/"), "data:", "blob:")
    assert len(asked) > 8
    assert all(r["url"].startswith(here) and r["method"] == "GET" for r in asked)
    assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []


def test_a_browser_that_cannot_run_seal_still_scores(browser, served, topics):
    folder, address = served
    artefact(folder / "artefact", topics)
    browser.get(address)
    until(browser, "ready")
    browser.execute_script("""
        for (const name of ["instantiate", "instantiateStreaming"]) {
          WebAssembly[name] = async () => { throw new WebAssembly.CompileError("no such opcode"); };
        }
        document.getElementById("elsewhere").open = true;
    """)
    browser.find_element("id", "encrypt").click()
    state, said = until(browser, "failed", "encrypted")
    assert state == "failed"
    assert "no such opcode" in said
    browser.find_element("id", "score").click()
    assert until(browser, "done")[0] == "done"


# --- its modules ----------------------------------------------------------------------------------


def key(page) -> PublicKey:
    """Make a new key in the page."""
    made = page(f"""
        const {{ initialize }} = await import("{SEAL}");
        const {{ Asker }} = await import("./encrypted.mjs");
        window.seal ??= await initialize();
        window.asker = await Asker.create(window.seal);
        return from(window.asker.publicKey);
    """)
    return PublicKey.load(base64.b64decode(made))


def ask(page, states, space=None, card=None) -> Query:
    """Encrypt in the page. card: the bytes of an index's card."""
    made = page(
        """
        const { readCard } = await import("./search.mjs");
        const card = args[2] && (await readCard(into(args[2])));
        return from(await window.asker.encrypt(args[0], args[1], [], card));
        """,
        states.tolist(), plain(space or Space(states.shape[1])),
        None if card is None else base64.b64encode(card).decode(),
    )  # fmt: skip
    return Query.load(base64.b64decode(made))


def read(page, response: bytes):
    return page(
        "return await window.asker.decrypt(into(args[0]))", base64.b64encode(response).decode()
    )


def head_of(dim, classes, seed=0, **options):
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(classes, dim)).astype(np.float32)
    return Head(weight, rng.normal(size=classes).astype(np.float32), **options)


@pytest.mark.parametrize(
    ("dim", "n", "classes"),
    [(144, 1, 10), (384, 3, 150), (30, 200, 4), (1, 5, 3), (5000, 2, 2), (4096, 1, 1)],
)
def test_scores_are_those_of_the_head(page, dim, n, classes):
    rng = np.random.default_rng(dim)
    states = rng.normal(size=(n, dim)) / np.sqrt(dim)
    labels = tuple(f"čas {i} 🙂" for i in range(classes))
    head = head_of(dim, classes, labels=labels, softcap=30.0)
    public = key(page)
    query = ask(page, states, Space(dim, name="señal\x20🙂"))
    response = Provider(head, keys=[public]).score(query)
    found = read(page, response.to_bytes())
    rounding = 0.5 * rounding_step(found["error"])[0]
    wrong = np.abs(np.array(found["scores"]) - head.apply(states)).max()
    assert wrong <= found["error"] + rounding <= 1e-2
    assert found["labels"] == list(labels)


def test_the_stated_error_and_places_are_those_of_python(page):
    public, states = key(page), np.eye(20)[:7] * 9  # norms of 9: bound 2^4
    query = ask(page, states)
    assert query.info.norm_bits == 4
    response = Provider(head_of(20, 6), keys=[public]).score(query)
    found, error = read(page, response.to_bytes()), response.info.error_bound
    assert found["error"] == pytest.approx(error, rel=1e-9)
    assert found["decimals"] == rounding_step(error)[1]


def test_states_of_zeros(page):
    """A query of zeros works, although SEAL refuses transparent ciphertexts."""
    public, head = key(page), head_of(12, 3)
    response = Provider(head, keys=[public]).score(ask(page, np.zeros((2, 12))))
    assert np.abs(np.array(read(page, response.to_bytes())["scores"]) - head.bias).max() <= 1e-2


@pytest.mark.parametrize("states", [[[float(1 << 25), 0.0]], [[1.0]], [[None, 1.0]], []])
def test_states_that_cannot_be_asked(page, states):
    key(page)
    with pytest.raises(AssertionError, match=r"too large|finite numbers"):
        page("return await window.asker.encrypt(args[0], args[1])", states, plain(Space(2)))


def test_everything_is_fresh(page):
    first = key(page)
    one, two = (ask(page, np.ones((1, 16)) / 4) for _ in "12")
    assert one.info.identity != two.info.identity
    a, b = (np.frombuffer(q.payloads[0], dtype=np.uint8) for q in (one, two))
    assert (a[-64:] != b[-64:]).sum() > 32  # seeds
    assert (a[:-64] != b[:-64]).mean() > 0.99
    assert key(page).digest != first.digest


def test_all_randomness_is_the_browsers(page):
    """Keys and queries repeat if crypto.getRandomValues does: SEAL has no other randomness."""
    page("""
        window.drawn = 0;
        crypto.getRandomValues = (view) => {
          const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
          return bytes.forEach((_, i) => { bytes[i] = window.drawn++; }), view;
        };
    """)
    made = []
    for _ in "12":
        page("window.drawn = 0")
        made.append((key(page).digest, ask(page, np.ones((1, 16))).digest))
    assert page("return window.drawn") >= 3 * 64  # for the secret, the public key and the query
    assert made[0] == made[1]


# --- hostile responses ----------------------------------------------------------------------------


def resealed(response: bytes, change) -> bytes:
    """Return the response with another description and matching digests."""
    length = int.from_bytes(response[32:36], "little")
    meta = json.loads(response[72 : 72 + length])
    change(meta)
    text = json.dumps(meta, sort_keys=True, separators=(",", ":")).encode()
    head = response[:32] + len(text).to_bytes(4, "little") + response[36:72] + text
    digest, record = hashlib.sha256(head).digest(), response[72 + length + 32 : -32]
    return head + digest + record + hashlib.sha256(digest + bytes(8) + record).digest()


@pytest.fixture
def answered(page):
    public, head = key(page), head_of(12, 3, labels=("a", "b", "c"))
    query = ask(page, np.eye(12)[:2])
    return Provider(head, keys=[public]).score(query), public, head


@pytest.mark.parametrize("place", [0, 8, 10, 12, 14, 16, 24, 32, 36, 40, 80, 400, -33, -1])
def test_every_altered_part_is_refused(page, answered, place):
    data = bytearray(answered[0].to_bytes())
    data[place] ^= 1
    with pytest.raises(AssertionError, match=r"this file"):
        read(page, bytes(data))


@pytest.mark.parametrize("size", [0, 71, 103, 104, 500, -1])
def test_a_response_cut_short_is_refused(page, answered, size):
    with pytest.raises(AssertionError, match=r"this file"):
        read(page, answered[0].to_bytes()[:size])


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("n", 1, "answers another query"),
        ("dim", 11, "answers another query"),
        ("batch", 1, "answers another query"),
        ("norm_bits", 5, "answers another query"),
        ("query", "00" * 32, "no query of this page"),
        ("head_scale", 95, "the scale"),
        ("head_scale", 1.5, "the scale"),
        ("head_scale", 0, "the rounding"),
        ("rounding_bits", -1, "the rounding"),
        ("rounding_bits", 9, "too imprecise"),
        ("flood_bits", -1, "the flooding"),
        ("flood_bits", 85, "the flooding"),
        ("flood_bits", 84, "too imprecise"),
        ("word_bits", 25, "the size of words"),
        ("word_bits", 32, "the size"),
        ("n_outputs", 4, "labels"),
        ("n_outputs", 0, "the number of scores"),
        ("labels", ["a", "a", "b"], "labels"),
        ("labels", ["a", "b", "\n"], "labels"),
        ("labels", [], None),
        ("softcap", 0.0, "the soft cap"),
        ("softcap", 5, "canonical form"),
        ("softcap", 5.0, None),
        ("softcap", 1e-9, None),
        ("more", 1, "the description"),
    ],
)
def test_every_field_is_looked_at(page, answered, field, value, said):
    data = resealed(answered[0].to_bytes(), lambda meta: meta.update({field: value}))
    if said is None:
        assert len(read(page, data)["scores"]) == 2
        return
    with pytest.raises(AssertionError, match=said):
        read(page, data)


def test_a_response_to_another_key_or_query_is_refused(page, answered):
    response, public, head = answered
    other = ask(page, np.eye(12)[:2])
    swapped = Provider(head, keys=[public]).score(other)
    mixed = Response(response.info, swapped.payloads)
    with pytest.raises(AssertionError, match="record 0 of this response answers another query"):
        read(page, mixed.to_bytes())
    key(page)
    with pytest.raises(AssertionError, match="belongs to another key"):
        read(page, response.to_bytes())


# --- an index in place of a head ------------------------------------------------------------------


@pytest.fixture
def searched(page, tmp_path):
    """A response of an index of 300 rows of 40 dimensions to 5 states; and the index."""
    rng, public = np.random.default_rng(3), key(page)
    np.save(tmp_path / "rows.npy", rng.normal(size=(300, 40)).astype(np.float32))
    with open_vectors(tmp_path / "rows.npy") as source:
        build_index(source, tmp_path / "index")
    index, states = open_index(tmp_path / "index"), rng.normal(size=(5, 40))
    query = ask(page, states, card=index.card.to_bytes())
    return Provider(index, keys=[public]).score(query), index, states


def test_the_rows_with_the_highest_scores_are_found(page, searched):
    response, index, states = searched
    found = read(page, response.to_bytes())
    exact = states / np.linalg.norm(states, axis=1, keepdims=True) @ index.rows(0, 300).T
    got = np.array([[[one["row"], one["score"]] for one in row] for row in found["first"]])
    chosen = got[..., 0].astype(int)
    assert np.abs(np.take_along_axis(exact, chosen, axis=1) - got[..., 1]).max() <= 0.005
    rows, _ = index.search(states.astype(np.float32))
    assert np.mean([len({*a} & {*b}) / 10 for a, b in zip(chosen, rows, strict=True)]) > 0.9
    layout = response.info.layout
    assert layout.rows * layout.batch <= 128  # what a key without a proof may ask for
    assert layout.rows == 25
    size = page(
        "return (await import('./encrypted.mjs')).responseBytes(...args)", 40, len(states), 300
    )
    assert size == sum(map(len, response.payloads))
    assert found["error"] == pytest.approx(response.info.error_bound, rel=1e-9)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ids": "ab" * 32}, "of another index"),
        ({"ids": ""}, "of another index"),
        ({"n_outputs": 299}, "the number of scores"),
        ({"labels": ["a"] * 300}, "the list of labels"),
        ({"flood_bits": 84}, "too imprecise"),
        ({"clusters": [0]}, "the description"),
    ],
)
def test_fields_of_an_index_are_looked_at(page, searched, change, said):
    data = resealed(searched[0].to_bytes(), lambda meta: meta.update(change))
    with pytest.raises(AssertionError, match=said):
        read(page, data)


def test_a_response_of_an_index_is_none_of_a_head(page, answered):
    data = resealed(answered[0].to_bytes(), lambda meta: meta.update(ids="ab" * 32))
    with pytest.raises(AssertionError, match="of an index in place of a head"):
        read(page, data)


def test_positions_of_the_highest_are_in_order(page):
    found = page(
        """
        const { highest } = await import("./search.mjs");
        return [highest([3, 1, 4, 1, 5], 3), highest([2, 2, 2], 2), highest([1], 4)];
        """
    )
    assert found == [[4, 2, 0], [0, 1], [0]]

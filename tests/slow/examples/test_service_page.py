"""The page of examples/browser asks a running `linalign-lite serve` and hostile stand-ins."""

from __future__ import annotations

import contextlib
import http.server
import json
import shutil
import socket
import subprocess
import threading
from dataclasses import replace
from urllib.parse import quote

import numpy as np
import pytest
from pages import artefact, until
from served import serving

from linalign_lite import (
    Head,
    SigningKey,
    Space,
    build_index,
    demo,
    extract,
    fuse,
    load_model,
    open_index,
    save,
)
from linalign_lite.encrypt.precision import rounding_step
from linalign_lite.retrieval.measures import ndcg
from linalign_lite.storage.schema import plain
from linalign_lite.vectors.locations import open_vectors

pytest.importorskip("onnx", reason="onnx is absent: pip install '.[onnx]'")
pytest.importorskip("uvicorn", reason="uvicorn is absent: pip install '.[serve]'")
ODD = "the service answers in an unknown form"

NO_ANSWER = "is no answer of a scoring service: is its address right?"


@pytest.fixture(scope="module")
def running(served, topics, tmp_path_factory):
    """A service of four heads and two indexes for the origin of the page, of model and map."""
    folder, address = served
    model, first, head, _ = topics
    place = folder / "client"
    place.mkdir()
    fuse(place / "model.onnx", model, map=first)
    shutil.copy(model.folder / "tokenizer.json", place)
    work = tmp_path_factory.mktemp("service")
    save(work / "topics.head.npz", head)
    other = replace(head.space, name="other", model="ab" * 32)
    save(work / "other.head.npz", Head(head.weight, head.bias, head.labels, other))
    documents = demo.labelled_texts(held_out=False).texts
    documents = extract(load_model(demo.model_folder("ash")), documents, prompt="Document: ")
    save(work / "documents.states.npz", documents)
    for name, options in {"numbered": {"metric": "dot"}, "named": {"clusters": 9}}.items():
        with open_vectors(work / "documents.states.npz") as source:
            build_index(source, work / name, **options)
    SigningKey.generate().verifying.save(work / "alice.pub")
    origin = address.removesuffix("/browser/")
    heads = [f'[[heads]]\nname = "{name}"\nfile = "{file}"\n{more}' for name, file, more in (
                 ("topics", "topics.head.npz", ""), ("other", "other.head.npz", ""),
                 ("closed", "topics.head.npz", 'accounts = ["alice.pub"]'),
                 ("trusted", "topics.head.npz", 'profile = "trusted"'),
                 ("numbered", "numbered", ""), ("named", "named", ""))]  # fmt: skip
    start = f'keys = "keys"\nport = 0\nworkers = 1\norigins = ["{origin}"]'
    (work / "service.toml").write_text("\n".join([start, *heads]))
    with serving(work / "service.toml") as found:
        yield found.url, work
        assert found.stop() == 0


@pytest.fixture
def service(running):
    return running[0]


def opened(browser, served, service, artefact="client"):
    browser.get(f"{served[1]}?artefact={artefact}&service={service}")
    return until(browser, "ready", "failed")


def ask(browser, head):
    from selenium.webdriver.support.select import Select

    Select(browser.find_element("id", "head")).select_by_visible_text(head)
    browser.find_element("id", "send").click()
    return until(browser, "decrypted", "failed")


def sent(browser):
    """Method and address of each request since the last call."""
    events = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    asked = [e["params"]["request"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return [(r["method"], r["url"]) for r in asked]


# --- the page, driven as by a user ----------------------------------------------------------------


def test_a_page_asks_a_service(browser, served, service, topics):
    """90 texts, asked twice: the key is registered once, and nothing goes anywhere else."""
    from selenium.webdriver.support.expected_conditions import url_contains
    from selenium.webdriver.support.wait import WebDriverWait

    model, first, head, texts = topics
    texts = texts[:90]
    artefact(served[0] / "artefact", topics)
    browser.get(served[1])
    until(browser, "ready")
    browser.find_element("css selector", "summary").click()
    browser.find_element("id", "service").send_keys(service)
    browser.find_element("css selector", "#connect button").click()
    WebDriverWait(browser, 60).until(url_contains(quote(service, safe="")))
    assert opened(browser, served, service)[1].endswith(f"6 heads at {service}")
    n = len(head.labels)
    sent(browser)
    browser.execute_script(
        "document.getElementById('texts').value = arguments[0]", "\n".join(texts)
    )
    want = (head @ first).apply(extract(model, texts).states)
    for _ in "12":
        assert ask(browser, f"topics ({n} scores)") == (
            "decrypted", "90 texts, scores of topics, 1 cut at 384 tokens",
        )  # fmt: skip
        rows = browser.execute_script(
            "return [...document.querySelector('#scores').rows].map(r => "
            "[...r.cells].map(c => c.textContent))"
        )
        assert rows[0] == ["text", *head.labels]
        assert [row[0] for row in rows[1:]] == list(texts)
        got = np.array([row[1:] for row in rows[1:]], dtype=float)
        assert np.abs(got - want).max() <= 1e-2
    there = [r for r in sent(browser) if r[0] == "POST"]
    score, keys = f"{service}/v1/heads/topics/score", f"{service}/v1/keys"
    assert there == [("POST", score), ("POST", keys), ("POST", score), ("POST", score)]


@pytest.mark.parametrize("name", ["numbered", "named"])
def test_a_page_searches_an_index(browser, served, running, topics, name):
    """Its scores and nDCG@10 are those of the map in the clear."""
    (service, work), (model, first, *_) = running, topics
    index, queries = open_index(work / name), demo.labelled_texts(held_out=True)
    opened(browser, served, service)
    browser.execute_script(
        "document.getElementById('texts').value = arguments[0]", "\n".join(queries.texts)
    )
    assert ask(browser, f"{name} ({len(index)} rows)") == (
        "decrypted", f"{len(queries.texts)} texts, nearest rows of {name}",
    )  # fmt: skip
    rows = browser.execute_script(
        "return [...document.querySelector('#scores').tBodies[0].rows].map(r => "
        "[...r.cells].map(c => c.textContent))"
    )
    assert [row[0] for row in rows] == list(queries.texts)
    asked = first.apply(extract(model, queries.texts).states)
    if name == "named":  # cosines
        asked = asked / np.linalg.norm(asked, axis=1, keepdims=True)
    exact = asked @ index.rows(0, len(index)).T
    ids, said = np.array([[c.rsplit(" ", 1) for c in row[1:]] for row in rows]).transpose(2, 0, 1)
    number = {index.ids[i]: i for i in range(len(index))}
    found = np.array([[number[i] for i in row] for row in ids])
    error = 0.02 * np.abs(exact).max()  # rows of an index are rounded to few bits
    scores = np.take_along_axis(exact, found, axis=1)
    assert np.abs(scores - said.astype(float)).max() <= error
    best = np.argsort(-exact, axis=1)[:, :10]
    assert np.abs(scores - np.take_along_axis(exact, best, axis=1)).max() <= error
    topics_of = np.array(demo.labelled_texts(held_out=False).labels)
    topics_of = topics_of[[int(index.ids[i]) for i in range(len(index))]]
    grades = [dict.fromkeys(np.flatnonzero(topics_of == own), 1) for own in queries.labels]
    encrypted, clear = (ndcg(r, grades, 10).mean() for r in (found, best))
    assert encrypted == pytest.approx(clear, abs=0.002)
    assert clear > 0.3  # 0.2 by chance


def test_the_policy_allows_the_named_service_alone(browser, served, service):
    refused = """
        const done = arguments[1];
        addEventListener("securitypolicyviolation", (e) => done(e.effectiveDirective));
        fetch(arguments[0]).then((answer) => done(answer.status), () => {});
    """
    assert opened(browser, served, service)[0] == "ready"
    assert browser.execute_async_script(refused, f"{service}/v1/heads") == 200
    assert browser.execute_async_script(refused, "https://example.org/") == "connect-src"
    for other in ("", "?service=nowhere", "?service=https://x;y"):
        browser.get(f"{served[1]}{other}")
        until(browser, "ready", "failed")
        assert browser.execute_async_script(refused, f"{service}/v1/heads") == "connect-src"


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("other", "head other is of another space: got "),
        ("closed", "head closed answers accounts only"),
        ("trusted", 'head trusted is asked in the profile "trusted"'),
    ],
)
def test_heads_that_the_page_cannot_ask(browser, served, service, topics, head, said):
    opened(browser, served, service)
    sent(browser)
    state, found = ask(browser, f"{head} ({len(topics[2].labels)} scores)")
    assert (state, found[: len(said)]) == ("failed", said)
    assert not [r for r in sent(browser) if r[0] == "POST"]


def test_an_origin_that_is_not_listed_is_told_so(browser, served, service):
    """The same page under another origin: `localhost` in place of 127.0.0.1."""
    elsewhere = (served[0], served[1].replace("127.0.0.1", "localhost"))
    origin = elsewhere[1].removesuffix("/browser/")
    state, said = opened(browser, elsewhere, service)
    assert state == "failed"
    assert said == (
        f"the service at {service} does not answer pages of {origin}: "
        "its operator lists them in `origins`, or is its address wrong?"
    )


def test_a_service_that_is_down_is_named(browser, served):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
    assert opened(browser, served, address) == (
        "failed", f"the service at {address} cannot be reached: is it running there?",
    )  # fmt: skip
    assert not browser.find_element("id", "send").is_enabled()
    assert browser.find_element("id", "encrypt").is_enabled()
    assert "no address of a service" in opened(browser, served, "ftp://somewhere")[1]


# --- its module -----------------------------------------------------------------------------------


def test_scores_are_within_the_stated_error(page, service, topics):
    _, _, head, _ = topics
    states = np.random.default_rng(1).normal(size=(40, head.space.dim)) / 12
    found = page(
        """
        const { initialize } = await import("./node_modules/node-seal/dist/index_throws.js");
        const { Asker } = await import("./encrypted.mjs");
        const { ScoringService, requireFit } = await import("./service.mjs");
        const asker = await Asker.create(await initialize());
        const there = new ScoringService(args[0]);
        const [head] = await there.heads();
        requireFit(head, args[2]);
        const query = await asker.encrypt(args[1], args[2]);
        return asker.decrypt(await there.score(head, query, asker.publicKey));
        """,
        service, states.tolist(), plain(head.space),
    )  # fmt: skip
    wrong = np.abs(np.array(found["scores"]) - head.apply(states)).max()
    assert wrong <= found["error"] + rounding_step(found["error"])[0] / 2 <= 1e-2
    assert found["labels"] == list(head.labels)


def test_what_a_page_takes_for_an_index(page, heads_of, running):
    """Its card and ids as the service states them, and no other."""
    _, work = running
    card, ids = ((work / "named" / name).read_bytes() for name in ("index.json", "ids.txt"))
    n = len(open_index(work / "named"))
    head = {**HEAD, "name": "named", "index": True, "n_outputs": n,
            "space": json.loads(card)["space"]}  # fmt: skip

    def taken(card=card, ids=ids, n_outputs=n):
        found = heads_of((200, {}, card), (200, {}, ids), call="index",
                         head={**head, "n_outputs": n_outputs})  # fmt: skip
        return found[0]

    assert taken()["card"]["rows"] == n
    assert "unknown form" in taken(n_outputs=n - 1)
    for bad in (b"{", b"null", card.replace(b"cosine", b"sine"), card.replace(b"index", b"other")):
        assert taken(bad) == "Error: the card of this index is not usable"
    for bad in (ids[:-1], ids + b"x\n", ids.replace(b"1", b"2", 1)):
        assert taken(ids=bad) == "Error: the list of ids of this index is not usable"
    assert "too large" in taken(ids=bytes(1025 * n + 1))


SPACES = [
    Space(4), Space(5), Space(4, name="a"), Space(4, name="b"), Space(4, "aa", "a", "mean"),
    Space(4, "bb", "a", "mean"), Space(4, "aa", "b", "mean"), Space(4, "aa", "a", "last"),
    Space(4, "aa", "a", "mean", normalize=True), Space(4, "aa", "a", "mean", prompt="Ask: "),
]  # fmt: skip


@pytest.mark.parametrize("index", [False, True])
def test_spaces_agree_as_in_python(page, index):
    found = page(
        """
        const { requireFit } = await import("./service.mjs");
        return args[0].map((a) => args[0].map((b) => {
          const head = { name: "h", profile: "private", needs_account: false, space: a,
                         index: args[1] };
          try { requireFit(head, b); } catch (e) { return e.name; }
          return "";
        }));
        """,
        [plain(s) for s in SPACES], index,
    )  # fmt: skip
    assert found == [["" if a.agrees(b, any_prompt=index) else "SpaceError" for b in SPACES]
                     for a in SPACES]  # fmt: skip


class StandIn(http.server.BaseHTTPRequestHandler):
    """Answers with what the test put into the server's `answers`, the last of them from then on."""

    def answer(self):
        answers = self.server.answers
        if self.path == "/health":
            status, headers, body = 200, {}, b""
        else:
            self.server.asked.append(self.path)
            status, headers, body = answers.pop(0) if len(answers) > 1 else answers[0]
        if not status:  # the connection is lost
            self.close_connection = True
            return
        self.send_response(status)
        allowed = {"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Headers": "*",
                   "Access-Control-Expose-Headers": "Retry-After"}  # fmt: skip
        for name, value in {**allowed, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            while body and self.wfile.write(body) and len(body) == 1 << 20:
                pass  # without end

    do_GET = answer  # noqa: N815 (named so by http.server)

    def log_message(self, *_):
        pass


@pytest.fixture
def heads_of(page):
    """List the heads of a server with these answers: what was found, and the paths asked."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), StandIn) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def listed(*answers, call="heads", head=None):
            server.answers, server.asked = list(answers), []
            found = page(
                """
                const { ScoringService } = await import("./service.mjs");
                const waited = [];
                const progress = (text) => waited.push(text);
                const there = new ScoringService(args[0], { tries: 3, progress });
                const asked = there[args[1]](args[2]);
                const found = await asked.catch((e) => `${e.name}: ${e.message}`);
                return [found, waited];
                """,
                f"http://127.0.0.1:{server.server_address[1]}/", call, head,
            )  # fmt: skip
            return *found, server.asked

        yield listed
        server.shutdown()


HEAD = {"name": "a", "space": plain(Space(4)), "dim": 4, "n_outputs": 2, "labels": [],
        "profile": "private", "max_error": 0.005, "needs_account": False}  # fmt: skip


def heads(*found):
    return json.dumps({"heads": found}).encode()


def test_a_busy_service_is_asked_again(heads_of):
    busy = (429, {"Retry-After": "1"}, b'{"error": "BusyError", "message": "busy"}')
    found, waited, asked = heads_of(busy, (0, {}, b""), (200, {}, heads(HEAD)))
    assert found == [HEAD]
    assert asked == ["/v1/heads"] * 3
    assert waited[0] == "Waiting 1.0 s: the service refuses: busy …"
    assert "cannot be reached" in waited[1]
    assert heads_of((0, {}, b""), (200, {}, heads(HEAD)))[0] == [HEAD]
    found, waited, asked = heads_of(busy)
    assert (found, len(asked), len(waited)) == ("BusyError: the service refuses: busy", 3, 2)
    assert heads_of((503, {"Retry-After": "soon"}, b""))[0] == f"StatusError: 503 {NO_ANSWER}"


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (403, b'{"error": "Budget", "message": "no\\n1"}', "Budget: the service refuses: no 1"),
        (400, b'{"error": "<b>", "message": "x"}', f"StatusError: 400 {NO_ANSWER}"),
        (400, b'{"message": "x"}', f"StatusError: 400 {NO_ANSWER}"),
        (404, b"<html>", f"StatusError: 404 {NO_ANSWER}"),
        (307, b"", f"StatusError: a redirect {NO_ANSWER}"),
        (500, b" " * (1 << 20), "AnswerError: the service's answer is too large"),
        (200, b" " * (1 << 20), "the service's answer is too large: over 67108864 bytes"),
        (200, b"\xff", ODD),
        (200, b"[]", ODD),
        (200, b"null", ODD),
        (200, b"[" * 100_000, ODD),
        (200, b'{"heads": 1}', ODD),
        (200, heads(*[HEAD] * 257), ODD),
        (200, heads(None), ODD),
        (200, heads({**HEAD, "name": "../keys"}), ODD),
        (200, heads({**HEAD, "n_outputs": 0}), ODD),
        (200, heads({**HEAD, "profile": None}), ODD),
        (200, heads({**HEAD, "needs_account": 0}), ODD),
        (200, heads({**HEAD, "index": 1}), ODD),
        (200, heads({**HEAD, "space": {"dim": 4}}), ODD),
    ],
)  # fmt: skip
def test_answers_that_are_not_usable(heads_of, status, body, said):
    headers = {"Location": "/v1/heads"} if status == 307 else {}
    found, waited, asked = heads_of((status, headers, body))
    assert said in found
    assert (waited, len(asked)) == ([], 1)


def test_node_asks_with_the_same_module(served, service):
    script = """
        import { ScoringService } from "./service.mjs";
        const [, , here, nowhere] = process.argv;
        console.log((await new ScoringService(here).heads()).map((head) => head.name).join());
        await new ScoringService(nowhere, { tries: 2 }).heads().catch((e) => console.log(e.name));
    """
    (served[0] / "heads.mjs").write_text(script)
    done = subprocess.run(
        ["node", "heads.mjs", service, "http://127.0.0.1:1"],
        cwd=served[0], capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "topics,other,closed,trusted,numbered,named",
        "UnreachableError",
    ], done.stderr

"""Private fits over HTTP: the whole exchange, what is refused, and what kills do to it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import run
from served import ask, serving

from linalign_lite import HiddenStates, finish_fit, fit, keygen, save
from linalign_lite.core.hidden_states import text_digest
from linalign_lite.core.signing import SigningKey
from linalign_lite.core.space import Space
from linalign_lite.encrypt.budgets.budget import Budget
from linalign_lite.encrypt.fitting.descriptions import OfferInfo
from linalign_lite.encrypt.fitting.offer import key_files, signed_bytes, write_offer
from linalign_lite.encrypt.key_proof import proven, save_proof
from linalign_lite.encrypt.wire import Kind, framed_bytes, open_framed
from linalign_lite.errors import (
    BudgetError,
    FormatError,
    InputError,
    LinalignError,
    MismatchError,
    SignatureError,
)
from linalign_lite.service.admission import BusyError
from linalign_lite.service.configuration import Configuration
from linalign_lite.service.fit_requests import MOST_HELD, FitRequests
from linalign_lite.service.remote_fit import RemoteFit, choose_fit
from linalign_lite.service.remote_provider import RemoteProvider
from linalign_lite.service.startup import require_usable

TEXTS, COLUMNS, DIMS = 300, 12, 9
TOLD = (COLUMNS + 2) * 5
MOST = 300_000  # bytes of an offer


def states(n, dim, seed, texts="text"):
    causes = np.random.default_rng(0).normal(size=(n, 8))
    rng = np.random.default_rng(seed)
    rows = causes @ rng.normal(size=(8, dim)) + 0.3 * rng.normal(size=(n, dim)) + 1
    digest = text_digest(f"{texts} {i}" for i in range(n))
    return HiddenStates(rows.astype(np.float32), text_digest=digest)


@pytest.fixture(scope="module")
def account():
    """A signing key, and a pair of keys of its account with a proof, which takes seconds."""
    signer = SigningKey.generate()
    secret, public = keygen(account=signer)
    return signer, secret, proven(secret, public)


def offered(folder, x, account, **options):
    """An offer and what is beside it."""
    signer, secret, public = account
    folder.mkdir(exist_ok=True)
    path = folder / "m.offer"
    write_offer(path, folder / "m.kept.npz", x, secret, account=signer, **options)
    public_at, proof_at = key_files(path)
    public.save(public_at)
    save_proof(proof_at, public)
    return path


def write_fits(folder, y, account):
    """A configuration of one fit, and of no head."""
    save(folder / "y.states.npz", y)
    account[0].verifying.save(folder / "alice.pub")
    (folder / "service.toml").write_text(
        f'keys = "keys"\nport = 0\nworkers = 1\nmost_offer = {MOST}\naudit_log = "audit.jsonl"\n'
        '[[fits]]\nname = "public"\nstates = "y.states.npz"\naccounts = ["alice.pub"]\n'
        f'budget = "fits.sqlite"\nlimit = {TOLD}\n'
    )
    return folder / "service.toml"


def spooled(pid):
    """Files of offers and answers that a service holds."""
    return list(Path(tempfile.gettempdir()).glob(f"linalign-fits-{pid}-*/*"))


@pytest.fixture(scope="module")
def served(tmp_path_factory, account):
    folder = tmp_path_factory.mktemp("fits")
    with serving(write_fits(folder, states(TEXTS, DIMS, 2), account)) as found:
        found.folder = folder
        yield found
        assert not spooled(found.process.pid)
        assert found.stop() == 0
        assert not list(Path(tempfile.gettempdir()).glob(f"linalign-fits-{found.process.pid}-*"))


def used(served):
    [usage] = Budget(served.folder / "fits.sqlite").usage() or [None]
    return 0 if usage is None else usage.used + usage.pending


def test_a_fit_over_a_service_is_that_of_the_clear(served, account, tmp_path):
    """Charged once, before the work; another offer is refused, and so is one that is too large."""
    x, y = states(TEXTS, COLUMNS, 1), states(TEXTS, DIMS, 2)
    offer, answer = offered(tmp_path, x, account), tmp_path / "m.answer"
    done = run("fit-private", "ask", served.url, offer, answer, "--json")
    assert json.loads(done.stdout)["bytes"] == answer.stat().st_size
    first, charged, other = answer.read_bytes(), used(served), tmp_path / "other"
    with RemoteProvider(served.url) as provider:
        provider.answer_fit("public", offer, answer)
        assert answer.read_bytes() == first  # sent again: the same, free
        assert used(served) == charged == TOLD
        again = offered(other, x, account)
        with pytest.raises(BudgetError, match="is used up: got 70 states"):
            provider.answer_fit("public", again, other / "m.answer")
        again.write_bytes(again.read_bytes() + bytes(MOST))
        with pytest.raises(LinalignError, match=f"a request of at most {MOST} bytes"):
            provider.answer_fit("public", again, other / "m.answer")
        assert not (other / "m.answer").exists()
    assert used(served) == TOLD
    line = json.loads((served.folder / "audit.jsonl").read_text().splitlines()[0])
    assert (line["fit"], line["states"], line["outputs"]) == ("public", TOLD, DIMS)
    _, report = finish_fit(answer, tmp_path / "m.kept.npz", tmp_path / "m.map.npz")
    _, expected = fit(x, y, folds=report.folds)
    assert report.held_out_r2 == pytest.approx(expected.held_out_r2, abs=1e-3)


def test_what_is_refused_is_named_and_costs_nothing(served, account, tmp_path):
    before, out = used(served), tmp_path / "m.answer"
    x = states(TEXTS, COLUMNS, 1)
    good = offered(tmp_path / "good", x, account)
    with open_framed(good, Kind.OFFER) as reader:
        header, payloads = reader.header, [record.payload for record in reader]
    damaged = good.read_bytes()
    unsigned = framed_bytes(header, payloads, lambda _: bytes(64))
    payloads[-1] = b"\xff" * (len(payloads[-1]) - 64) + payloads[-1][-64:]
    residues = framed_bytes(header, payloads, lambda n: account[0].sign(signed_bytes(n)))
    cases = (
        (damaged[:-200] + b"\0" + damaged[-199:], FormatError, "does not agree with its digest"),
        (damaged[:-1], FormatError, "size that its header states"),
        (damaged[:50], FormatError, "too short"),
        (b"", FormatError, "too short"),
        (unsigned, SignatureError, "not signed by the account"),
        (residues, FormatError, "not below its prime"),
    )
    with RemoteProvider(served.url) as provider:
        for raw, kind, said in cases:
            good.write_bytes(raw)
            with pytest.raises(kind, match=said) as caught:
                provider.answer_fit("public", good, out)
            assert "linalign-fits" not in str(caught.value)
        good.write_bytes(damaged)
        with pytest.raises(LinalignError, match="no fit of that name"):
            provider.answer_fit("other", good, out)
        with pytest.raises(InputError, match="cannot be the name of a fit"):
            provider.answer_fit("a/b", good, out)
        other = offered(tmp_path / "other", states(TEXTS, COLUMNS, 1, "another"), account)
        with pytest.raises(MismatchError, match="of other texts than the fit"):
            provider.answer_fit("public", other, out)
        stranger = SigningKey.generate()
        secret, public = keygen(account=stranger)
        theirs = offered(tmp_path / "x", x, (stranger, secret, account[2]))
        key_files(theirs)[0].unlink()
        public.save(key_files(theirs)[0])
        with pytest.raises(MismatchError, match="of another public key"):
            provider.answer_fit("public", theirs, out)
        with pytest.raises(LinalignError, match="not among those that are answered"):
            provider.register(public)
    status, answer = ask(served, "POST", "/v1/fits/public/answer", theirs.read_bytes())
    assert (status, json.loads(answer)["error"]) == (403, "UnknownKey")
    path = served.folder / "service.toml"
    path.write_text("most_seconds = 0.1\n" + path.read_text())
    served.process.send_signal(signal.SIGHUP)
    served.wait_for("reloaded")
    with (
        RemoteProvider(served.url) as provider,
        pytest.raises(MismatchError, match="takes too long: got"),
    ):
        provider.answer_fit("public", good, out)
    assert not out.exists()
    assert not spooled(served.process.pid)
    assert used(served) == before


@pytest.mark.parametrize("which", ["process", pytest.param("service", marks=pytest.mark.slow)])
def test_a_kill_loses_no_offer(account, tmp_path, which):
    """The offer is answered by the next, from what was charged."""
    offer, out = offered(tmp_path, states(TEXTS, COLUMNS, 1), account), tmp_path / "m.answer"
    path = write_fits(tmp_path, states(TEXTS, 10 * DIMS, 2), account)
    failed = []

    def asking(url):
        try:
            with RemoteProvider(url, tries=9) as provider:
                provider.answer_fit("public", offer, out)
        except LinalignError as e:
            failed.append(e)

    with contextlib.ExitStack() as stack:
        served = stack.enter_context(serving(path))
        port = served.url.rpartition(":")[2]
        thread = threading.Thread(target=asking, args=(served.url,))
        thread.start()
        deadline = time.monotonic() + 60
        while not (tmp_path / "fits.sqlite.responses").exists() and time.monotonic() < deadline:
            time.sleep(0.01)  # it is charged, and at work
        if which == "process":
            os.kill(served.children()[0], signal.SIGKILL)
        else:
            served.process.kill()
            served.process.wait(60)
            served = stack.enter_context(serving(path, "--port", port))
        thread.join(120)
        assert not failed
        served.folder = tmp_path
        assert used(served) == TOLD
        finish_fit(out, tmp_path / "m.kept.npz", tmp_path / "m.map.npz")


def test_states_are_chosen_by_their_texts(account, tmp_path):
    with open_framed(offered(tmp_path, states(TEXTS, COLUMNS, 1), account), Kind.OFFER) as reader:
        offer = OfferInfo.from_header(reader.header, reader.name)
    mine, other = offer.text_digest, "0" * 64
    made = [
        RemoteFit(name=n, space=Space(3), dim=3, texts=TEXTS, text_digest=t, most_bytes=9)
        for n, t in (("a", other), ("b", mine), ("c", mine))
    ]
    assert choose_fit(made[:2], offer).name == "b"
    assert choose_fit(made, offer, "c").name == "c"
    for fits, name, kind, said in (
        (made, None, InputError, "several states of these texts: expected b, c"),
        (made, "d", InputError, "no such states for private fits: got d, expected a, b, c"),
        (made, "a", MismatchError, "no states of the offer's texts"),
        ([], None, MismatchError, "no states of the offer's texts"),
    ):
        with pytest.raises(kind, match=said):
            choose_fit(fits, offer, name)


def test_offers_that_arrive_at_once_are_few():
    requests = FitRequests(None, None)
    with contextlib.ExitStack() as held:
        for _ in range(MOST_HELD):
            held.enter_context(requests._room())
        with pytest.raises(BusyError), requests._room():
            pass
    with requests._room():  # there is room again
        pass


def test_a_fit_needs_accounts_and_a_budget(account, tmp_path):
    path = write_fits(tmp_path, states(TEXTS, DIMS, 2), account)
    require_usable(Configuration.load(path))
    text = path.read_text()
    for gone, got in (('accounts = ["alice.pub"]\n', "no accounts"), ('budget = "fits.sqlite"\n',
                      "no budget")):  # fmt: skip
        path.write_text(text.replace(gone, ""))
        with pytest.raises(InputError, match=f"would give all its states away: got {got}"):
            Configuration.load(path)
    path.write_text(text + text[text.index("[[fits]]") :])
    with pytest.raises(InputError, match="two fits have one name"):
        Configuration.load(path)
    coarse = states(TEXTS, DIMS, 2)
    path.write_text(text)
    rows = HiddenStates(np.rint(coarse.states), text_digest=coarse.text_digest)
    save(tmp_path / "y.states.npz", rows)
    with pytest.raises(InputError, match="few different values"):
        require_usable(Configuration.load(path))

"""Drive the page of examples/browser."""

from __future__ import annotations

import contextlib
import functools
import http.server
import shutil
import threading
from pathlib import Path

import numpy as np

from linalign_lite import extract, fuse


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def hosting(folder: Path):
    """Serve a folder; yields the origin."""
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def artefact(folder: Path, topics, **options) -> np.ndarray:
    """Write model.onnx and tokenizer.json into ``folder``; return the scores of Python."""
    model, first, head, texts = topics
    folder.mkdir(parents=True, exist_ok=True)
    fuse(folder / "model.onnx", model, map=first, head=head, **options)
    shutil.copy(model.folder / "tokenizer.json", folder)
    states = extract(model, texts)
    assert len(texts) == 200
    assert states.n_cut >= 1
    return (head @ first).apply(states.states)


def until(browser, *states):
    """Wait for a state of the page, which may still be replaced by another: state and text."""
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.wait import WebDriverWait

    def reached(browser):
        line = browser.find_element("id", "status")
        state = line.get_attribute("data-state")
        return (state, line.text) if state in states else None

    return WebDriverWait(browser, 60, ignored_exceptions=[StaleElementReferenceException]).until(
        reached
    )

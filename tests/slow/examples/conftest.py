"""Install the JavaScript examples, for node and for Chromium."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

import pytest
from chromium import started
from pages import hosting
from support import ROOT

from linalign_lite import demo, extract, fit, load_model, train_head

EXAMPLES = ROOT / "examples"
UNUSUAL = (
    "Zoë's naïve café: “quotes” — dashes… 日本語 🙂 e\u0301",
    "  two leading spaces,  two inside, and a trailing one ",
    "CAPITALS and lowercase, http://example.org/?q=1&r=2, a_b-c 1234567890 \t tab",
    "A dog ran. " * 200,  # longer than the context
)


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """Install an example with the packages of its lock file in a new folder."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("no node and npm here: apt-get install nodejs npm")

    @functools.cache
    def install(name: str) -> Path:
        root = tmp_path_factory.mktemp("examples")
        shutil.copy(EXAMPLES / "fused.mjs", root)
        ignore = shutil.ignore_patterns("node_modules")
        folder = shutil.copytree(EXAMPLES / name, root / name, ignore=ignore)
        done = subprocess.run(
            ["npm", "ci", "--no-audit", "--no-fund", "--prefer-offline"],
            cwd=folder, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        offline = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ETIMEDOUT")
        if done.returncode and any(word in done.stderr for word in offline):
            pytest.skip("no package registry can be reached from here")
        assert done.returncode == 0, done.stderr
        return folder

    return install


@pytest.fixture(scope="session")
def topics():
    """200 texts, and a map and a head fitted on the texts of the demonstration."""
    a, b = (load_model(demo.model_folder(name)) for name in ("ash", "birch"))
    public = demo.public_texts().texts[:600]
    first, _ = fit(extract(b, public), extract(a, public))
    head, _ = train_head(extract(a, demo.labelled_texts(held_out=False)))
    texts = (*UNUSUAL, *demo.labelled_texts(held_out=True).texts, *public)[:200]
    return b, first, head, texts


@pytest.fixture(scope="session")
def served(installed):
    """The folder of the browser example, and the address that serves it."""
    folder = installed("browser")
    with hosting(folder.parent) as origin:
        yield folder, f"{origin}/browser/"


@pytest.fixture(scope="module")
def browser(tmp_path_factory, installed):
    with started(tmp_path_factory.mktemp("profile")) as driven:
        yield driven


@pytest.fixture
def page(browser, served):
    """Run JavaScript in a page of this origin; its errors become AssertionErrors."""
    browser.get(f"{served[1]}page.css")  # has no policy and loads nothing

    def call(body, *args):
        found = browser.execute_async_script(
            f"""
            const [args, done] = [[...arguments].slice(0, -1), arguments[arguments.length - 1]];
            const into = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
            const from = (bytes) => btoa(Array.from(bytes, (b) => String.fromCharCode(b)).join(""));
            (async () => {{ {body} }})()
              .then((ok) => done({{ ok }}), (e) => done({{ no: e.message }}));
            """,
            *args,
        )
        assert "no" not in found, found["no"]
        return found["ok"]

    browser.set_script_timeout(60)
    return call

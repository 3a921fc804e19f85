"""docs/SILO.md, word by word: three parties that share nothing, and no network.

Every command runs in namespaces of its own: no network but a loopback that is down, and of the file
system neither the other parties' folders nor this checkout nor the tests' environment. Building the
wheelhouse is what needs pip's network, before.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import ROOT

from linalign_lite import demo, load_head, load_map, load_model, read_texts
from linalign_lite.extraction.pipeline import extract

PAGE = (ROOT / "docs" / "SILO.md").read_text(encoding="utf-8")
CARRIED = {".bundle", ".query", ".response"}
REQUIRED = bool(os.environ.get("LINALIGN_CI"))  # CI: no wheelhouse is a failure
PYTHON = Path(sys._base_executable).parent  # type: ignore[attr-defined]
NAMES = ("provider", "client", "courier")


def block(mark: str) -> str:
    found = re.search(rf"<!-- {mark} -->\n```sh\n(.*?)```", PAGE, re.DOTALL)
    assert found, mark
    return found[1]


@pytest.fixture(scope="module")
def alone():
    """The command that gives a process its own network and mounts."""
    for options in ("-rnm", "-nm"):
        with_options = ["unshare", options]
        if shutil.which("unshare") and not subprocess.run(
            [*with_options, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True,
            check=False,
        ).returncode:  # fmt: skip
            return with_options
    pytest.skip("this system lets no process have namespaces of its own (unshare)")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheels") / "wheels"
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, f"{ROOT}[bundle]", "-w", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        (pytest.fail if REQUIRED else pytest.skip)(
            f"no wheelhouse without pip's network: {done.stderr.strip().splitlines()[-1][:200]}"
        )
    return folder


class Party:
    """A folder, and processes that see no other party's folder and no network."""

    def __init__(self, home: Path, alone: list[str], hidden: list[Path]) -> None:
        home.mkdir()
        self.home, self._alone, self._hidden = home, alone, hidden
        self.seconds = 0.0

    def run(self, script: str, *, code: int = 0) -> str:
        hide = "".join(f"mount -t tmpfs none '{path}'\n" for path in self._hidden)
        inner = f"cd '{self.home}'\nexec bash -euo pipefail -c \"$SCRIPT\""
        began = time.perf_counter()
        done = subprocess.run(
            [*self._alone, "bash", "-euc", hide + inner],
            capture_output=True, text=True, check=False, cwd="/",
            env={"PATH": f"{self.home}/env/bin:{PYTHON}:/usr/bin:/bin", "HOME": str(self.home),
                 "SCRIPT": script, "OMP_NUM_THREADS": "1", "LANG": "C.UTF-8"},
        )  # fmt: skip
        self.seconds += time.perf_counter() - began
        assert done.returncode == code, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        assert "Traceback" not in done.stderr
        return done.stdout


def by_hand(source: Path, target: Path) -> None:
    """Public signing keys and a digest, once, by a way that both trust."""
    assert source.suffix in {".pub", ".sha256"}
    shutil.copy(source, target)


@pytest.fixture(scope="module")
def parties(tmp_path_factory, alone):
    place = tmp_path_factory.mktemp("parties")
    environment = [Path(sys.prefix)] if sys.prefix != sys.base_prefix else []
    outside = [p for p in (ROOT, *environment) if p not in place.parents]
    return {
        name: Party(place / name, alone, [place / n for n in NAMES if n != name] + outside)
        for name in NAMES
    }


@pytest.fixture(scope="module")
def carry(parties):
    def by_courier(name: str, source: str, target: str) -> None:
        """Out of one folder, through the courier's, into another."""
        assert Path(name).suffix in CARRIED
        bag = parties["courier"].home / name
        shutil.copy(parties[source].home / name, bag)
        shutil.copy(bag, parties[target].home / name)

    return by_courier


@pytest.fixture(scope="module")
def exchanged(parties, carry, wheels):
    """The whole page; returns what each party's last step printed."""
    provider, client = parties["provider"], parties["client"]
    for name in ("ash", "birch"):
        shutil.copytree(demo.model_folder(name), provider.home / "models" / name)
    shutil.copytree(wheels, provider.home / "wheels")
    public = demo.public_texts().texts[:1500]
    (provider.home / "public.txt").write_text("\n".join(public) + "\n", encoding="utf-8")
    train, test = (demo.labelled_texts(held_out=held) for held in (False, True))
    lines = [
        json.dumps({"text": text, "label": label})
        for text, label in zip(train.texts, train.labels, strict=True)
    ]
    (provider.home / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (client.home / "questions.txt").write_text("\n".join(test.texts) + "\n", encoding="utf-8")
    pip = "env/bin/pip install -q --no-index --find-links wheels 'linalign-lite[bundle]'"
    provider.run(f"python3 -m venv env\n{pip}")

    provider.run(block("provider: delivers"))
    by_hand(provider.home / "signing" / "signing.pub", client.home / "provider.pub")
    by_hand(provider.home / "delivery.sha256", client.home / "delivery.sha256")
    carry("delivery.bundle", "provider", "client")
    client.run(block("client: first"))
    installed = client.run(block("client: installs"))
    client.run(block("client: asks"))
    by_hand(client.home / "signing" / "signing.pub", provider.home / "client.pub")
    carry("client.bundle", "client", "provider")
    carry("my.query", "client", "provider")
    provider.run(block("provider: answers"))
    carry("my.response", "provider", "client")
    print({name: round(p.seconds, 1) for name, p in parties.items()})  # noqa: T201 (pytest -s)
    return installed, client.run(block("client: reads"))


def test_nobody_has_a_network_or_another_partys_files(parties):
    script = """
import os, socket, sys
assert [name for _, name in socket.if_nameindex()] == ["lo"], socket.if_nameindex()
for host in ("127.0.0.1", "192.0.2.1"):
    try:
        socket.create_connection((host, 9), 2)
    except OSError as e:
        assert e.errno == 101, e  # network is unreachable
    else:
        raise SystemExit(f"{host} answered")
for path in sys.argv[1:]:
    assert os.listdir(path) == [], path
"""
    for party in parties.values():
        (party.home / "mine").write_text("x")
    for party in parties.values():
        hidden = " ".join(f"'{path}'" for path in party._hidden)
        party.run(f"test -e mine\npython3 - {hidden} <<'PY'{script}PY\n")
    assert len(parties["courier"]._hidden) >= 3


def test_the_labels_are_those_without_encryption(exchanged, parties):
    """The provider's head on the client's mapped states, in this process, in the clear."""
    _, printed = exchanged
    provider, client = parties["provider"].home, parties["client"].home
    texts = read_texts(str(client / "questions.txt"))
    states = extract(load_model(provider / "models" / "birch"), texts)
    head = load_head(provider / "topics.head.npz")
    fused = head @ load_map(provider / "birch-to-ash.map.npz")
    plain = [head.labels[i] for i in fused.predict(states.states)]
    assert [line.split()[0] for line in printed.splitlines()] == plain
    assert len(set(plain)) > 2


def test_the_wheels_that_were_installed_are_named_by_their_digests(exchanged, parties):
    """The pip command that `install` printed, in an environment that has none of them."""
    command = exchanged[0].splitlines()[-1]
    assert command.startswith("pip install --no-index --find-links delivery/wheelhouse")
    client = parties["client"]
    planned = client.run(f"{command} --dry-run --ignore-installed")
    assert "Would install" in planned
    assert "linalign-lite-" in planned
    wheel = next((client.home / "delivery" / "wheelhouse").glob("numpy-*.whl"))
    changed = bytearray(wheel.read_bytes())
    changed[len(changed) // 2] ^= 1
    wheel.write_bytes(changed)
    client.run(f"{command} --dry-run --ignore-installed", code=1)


def test_only_bundles_queries_and_responses_were_carried(exchanged, parties):
    carried = {p.name for p in parties["courier"].home.iterdir()} - {"mine"}
    assert carried == {"delivery.bundle", "client.bundle", "my.query", "my.response"}


def test_nothing_secret_was_carried(exchanged, parties):
    client, provider = parties["client"].home, parties["provider"].home
    secrets = [client / "keys" / "secret.key", client / "signing" / "signing.key",
               provider / "signing" / "signing.key"]  # fmt: skip
    texts = (client / "questions.txt").read_bytes().splitlines()
    for file in parties["courier"].home.iterdir():
        content = file.read_bytes()
        for secret in secrets:
            assert secret.read_bytes()[16:48] not in content
        if file.suffix != ".bundle":
            assert not any(t in content for t in texts)


def test_a_bundle_that_the_courier_changed_is_refused(exchanged, parties):
    client = parties["client"]
    data = bytearray((parties["courier"].home / "delivery.bundle").read_bytes())
    data[len(data) // 2] ^= 1
    (client.home / "changed.bundle").write_bytes(data)
    client.run("linalign-lite bundle install changed.bundle changed --key provider.pub", code=2)
    client.run("linalign-lite bundle verify client.bundle --key provider.pub", code=2)
    assert not (client.home / "changed").exists()

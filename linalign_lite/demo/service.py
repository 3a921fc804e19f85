"""`linalign-lite serve demo`: a service of the demo's classifier, and files to ask it with."""

import shutil
from collections.abc import Callable
from pathlib import Path

from linalign_lite.demo.steps import new_keys
from linalign_lite.demo.walkthrough import Walkthrough
from linalign_lite.storage.atomic import write_atomic

FOLDER = Path("linalign-demo-service")
PORT = 8765
_CONFIGURATION = f"""\
port = {PORT}
keys = "registered"  # folder of the public keys that clients register
origins = ["http://127.0.0.1:8000"]  # of the page in examples/browser

[[heads]]
name = "topics"
file = "topics.head.npz"
"""


def demo_service(say: Callable[[str], None], folder: Path = FOLDER) -> Path:
    """Make the service's folder unless it is there. Returns the configuration's path."""
    provider, client = folder / "provider", folder / "client"
    configuration = provider / "service.toml"
    if not configuration.exists():
        Walkthrough(folder, say).prepare()
        keys = client / "keys"
        if not (keys / "public.key").exists():  # it may have been interrupted
            shutil.rmtree(keys, ignore_errors=True)
            new_keys(keys)
        write_atomic(configuration, _CONFIGURATION.encode())  # last: the folder is whole
    return configuration


def how_to_ask(url: str, folder: Path = FOLDER) -> str:
    """Return what a client types, and how to go on."""
    client, provider = folder / "client", folder / "provider"
    return (
        "in another terminal, as the client:\n"
        f"  linalign-lite ask {url} {client}/test.states.npz"
        f" --map {client}/client-to-provider.map.npz --key {client}/keys\n"
        f"Ctrl-C ends the service; {provider}/service.toml is its configuration"
    )

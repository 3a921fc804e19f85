"""Steps of `linalign-lite demo fit-private`: a map from states that neither party shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from linalign_lite.alignment.least_squares import fit
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.demo import CLIENT, PROVIDER, model_folder, public_texts
from linalign_lite.demo.steps import Say, Steps, make_folders, write_figures
from linalign_lite.encrypt.fitting.answer import answer_fit
from linalign_lite.encrypt.fitting.descriptions import told_states
from linalign_lite.encrypt.fitting.finish import finish_fit
from linalign_lite.encrypt.fitting.offer import key_files, offer_fit
from linalign_lite.extraction.pipeline import extract
from linalign_lite.extraction.session import load_model
from linalign_lite.extraction.texts import Texts
from linalign_lite.heads.serialization import save
from linalign_lite.storage.atomic import write_atomic

TEXTS = 3000  # of the public texts: five folds of 4·(144 + 1) and some


def run_private_fit(out: Path, say: Say) -> dict[str, Any]:
    """Play both parties of an encrypted fit in the folder ``out`` and return the figures.

    The provider's files go to out/provider, the client's to out/client. Only the public texts and
    the files in out/exchange pass between them: an offer with its public key and proof, and the
    answer. At the end the states of both are in one place, for a fit in the clear to compare.
    """
    step = Steps(say)
    provider, client, exchange = make_folders(out)
    offer, answer = exchange / "client.offer", exchange / "provider.answer"
    kept, map_file = client / "client.kept.npz", client / "client-to-provider.map.npz"

    texts = Texts(public_texts().texts[:TEXTS])
    write_atomic(out / "public.txt", "".join(t + "\n" for t in texts.texts).encode())
    with step(f"The client reads the public texts with its own model, {CLIENT}") as lines:
        x = _states(CLIENT, texts, client)
        lines.append(f"{len(x)} states of {x.space.dim} dimensions, which stay with it")
    with step(f"The provider reads the same texts with its own, {PROVIDER}") as lines:
        y = _states(PROVIDER, texts, provider)
        lines.append(f"{len(y)} states of {y.space.dim} dimensions, which stay with it")
    with step("The client makes a key for one offer, and encrypts its states") as lines:
        offered = offer_fit(offer, kept, x)
        keys = sum(path.stat().st_size for path in key_files(offer))
        lines.append(f"{offer.name}: {_megabytes(offer)}, and {keys / 1e6:.1f} MB of key and proof")
    with step("The provider multiplies them by its own, without reading them") as lines:
        answered = answer_fit(offer, answer, y)
        lines.append(f"{answer.name}: {_megabytes(answer)}")
        lines.append(
            f"the client is told {told_states(answered)} numbers of each dimension, "
            f"which has {answered.n}"
        )
    with step("The client decrypts the products, fits the map and destroys the key") as lines:
        private, report = finish_fit(answer, kept, map_file)
        lines.append(
            f"{report.n} texts, {report.folds} folds, penalty {report.penalty:.2g}, "
            f"held-out R² {report.held_out_r2:.5f}"
        )
    with step("For comparison: the same fit in the clear, which needs both parties' states") as own:
        clear, expected = fit(x, y, folds=report.folds)
        gap = _distance(private.apply(x.states), clear.apply(x.states))
        own.append(f"penalty {expected.penalty:.2g}, held-out R² {expected.held_out_r2:.5f}")
        own.append(f"distance of the two maps' predictions: {gap:.1e} of their spread")
    figures = {
        "texts": report.n,
        "folds": report.folds,
        "columns": offered.columns,
        "target_dim": answered.space.dim,
        "offer_bytes": offer.stat().st_size,
        "key_bytes": keys,
        "answer_bytes": answer.stat().st_size,
        "told": told_states(answered),
        "held_out_r2": report.held_out_r2,
        "held_out_r2_in_the_clear": expected.held_out_r2,
        "distance": gap,
        "seconds": step.rounded(),
    }
    write_figures(out, figures)
    return figures


def _states(name: str, texts: Texts, folder: Path) -> HiddenStates:
    states = extract(load_model(model_folder(name)), texts)
    save(folder / "public.states.npz", states)
    return states


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"


def _distance(found: Any, expected: Any) -> float:
    """‖found − expected‖ over ‖expected‖ about its mean."""
    spread = np.linalg.norm(expected - expected.mean(axis=0))
    return float(np.linalg.norm(found - expected) / spread)

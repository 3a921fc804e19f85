# python3 -m venv mini_vec2vec && mini_vec2vec/bin/pip install torch scikit-learn scipy tqdm
"""mini-vec2vec's own notebook on given states: arrays in a .npz in, mapped states in a .npy out.

    mini_vec2vec/bin/python mini_vec2vec_notebook.py linear_vec2vec.ipynb IN OUT

The notebook is that of github.com/guy-dar/mini-vec2vec. Its cells run in their order and with their
settings; left out are those that load its own data, and the imports that only they need. IN: x, y
(states of texts of which none is on both sides), x_judged, y_judged (states of the same texts).
Its preparation is repeated here: each side centred on the mean of its texts, and of length 1. It
expects sides of one dimension: zeros are appended to the smaller. OUT: x_judged in the target's
centred space. Prints the seconds as one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

LOADING = ("hf_hub_download", "sent_embeds")  # in the cells that load the notebook's own data
UNUSED = ("from datasets import load_dataset\n",)


def main() -> None:
    notebook, given, made = sys.argv[1:]
    torch.manual_seed(0)
    np.random.seed(0)
    with np.load(given) as arrays:
        sides = {k: torch.from_numpy(arrays[k].astype(np.float32)) for k in arrays}
    names = prepared(sides)
    began = time.perf_counter()
    with Path(os.devnull).open("w") as silence, contextlib.redirect_stdout(silence):
        for cell in code_cells(Path(notebook)):
            exec(compile(cell, notebook, "exec"), names)
    image = names["X_eval"] @ names["W"]
    np.save(made, image[:, : sides["y"].shape[1]].numpy())
    print(json.dumps({"seconds": time.perf_counter() - began}))


def prepared(sides: dict[str, Any]) -> dict[str, Any]:
    """Names that the notebook's loading cells define, each (n, d), d the larger dimension."""
    width = max(side.shape[1] for side in sides.values())
    names = {}
    for ours, theirs in (("x", "X"), ("y", "Y")):
        centre = sides[ours].mean(dim=0)
        for part, name in ((ours, f"{theirs}_train"), (f"{ours}_judged", f"{theirs}_eval")):
            unit = torch.nn.functional.normalize(sides[part] - centre)
            names[name] = torch.nn.functional.pad(unit, (0, width - unit.shape[1]))
    return names


def code_cells(path: Path) -> list[str]:
    """The notebook's code, without the cells that load its data."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    kept = [cell for cell in code if not any(word in cell for word in LOADING)]
    for line in UNUSED:
        kept = [cell.replace(line, "") for cell in kept]
    return kept


if __name__ == "__main__":
    main()

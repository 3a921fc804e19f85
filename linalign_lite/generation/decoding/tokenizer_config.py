"""What a tokenizer's parts are, from the settings that it writes about itself."""

from __future__ import annotations

import json
from typing import Any


def steps(part: Any) -> list[dict[str, Any]] | None:
    """The settings of a normalizer, pre-tokenizer or decoder, a sequence taken apart.

    None when the part does not say what it is (one written in Python).
    """
    if part is None:
        return []
    try:
        return list(_flat(json.loads(part.__getstate__())))
    except Exception:  # noqa: BLE001  # whatever a custom part raises
        return None


def _flat(raw: dict[str, Any]) -> list[dict[str, Any]]:
    for inside in ("decoders", "normalizers", "pretokenizers"):
        if raw["type"] == "Sequence" and inside in raw:
            return [step for part in raw[inside] for step in _flat(part)]
    return [raw]


def silent_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of special tokens, which decoding leaves out."""
    found = tokenizer.get_added_tokens_decoder()
    return frozenset(i for i, token in found.items() if token.special)

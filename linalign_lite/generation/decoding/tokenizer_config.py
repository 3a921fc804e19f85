"""Read a tokenizer's configuration: the steps of its parts and its special tokens."""

import json
from typing import Any


def steps(part: Any) -> list[dict[str, Any]] | None:
    """Settings of a normalizer, pre-tokenizer or decoder, sequences flattened.

    None when the part cannot be serialised (one written in Python).
    """
    if part is None:
        return []
    try:
        return list(_flat(json.loads(part.__getstate__())))
    except Exception:  # noqa: BLE001  # a custom part may raise anything
        return None


def _flat(raw: dict[str, Any]) -> list[dict[str, Any]]:
    for inside in ("decoders", "normalizers", "pretokenizers"):
        if raw["type"] == "Sequence" and inside in raw:
            return [step for part in raw[inside] for step in _flat(part)]
    return [raw]


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of special tokens, which decoding leaves out."""
    added = tokenizer.get_added_tokens_decoder()
    return frozenset(i for i, token in added.items() if token.special)

"""Attention of grouped queries for export: a product for each group, and no copies of its keys.

transformers repeats keys and values for every query head of a group, which a graph then does in
every layer and step, and its torch function exports to more nodes than the formula has.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

# settings of a call that change nothing here: the mask says all, and nothing is dropped out
_KNOWN = {"scaling", "dropout", "is_causal", "position_ids", "cache_position", "sliding_window",
          "use_cache"}  # fmt: skip


@contextlib.contextmanager
def grouped_attention() -> Iterator[None]:
    """Make transformers use `attend` instead of torch's function while a model is traced."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as FUNCTIONS

    usual = FUNCTIONS["sdpa"]

    def attention(
        module: Any, query: Any, key: Any, value: Any, mask: Any, **settings: Any
    ) -> tuple[Any, None]:
        given = {
            k for k, setting in settings.items() if setting is not None and setting is not False
        }
        groups = getattr(module, "num_key_value_groups", 1)
        if groups == 1 or mask is None or not given <= _KNOWN:
            result: tuple[Any, None] = usual(module, query, key, value, mask, **settings)
            return result
        scale = settings.get("scaling") or query.shape[-1] ** -0.5
        return attend(query, key, value, mask, groups, scale), None

    FUNCTIONS["sdpa"] = attention
    try:
        yield
    finally:
        del FUNCTIONS["sdpa"]  # transformers' own is there again


def attend(query: Any, key: Any, value: Any, mask: Any, groups: int, scale: float) -> Any:
    """softmax(scale QKᵀ + M)V of torch tensors, returned as (batch, queries, heads, d).

    query: (batch, heads, queries, d); key, value: (batch, heads/groups, keys, d); mask: True where
    a query sees a key, or what is added, broadcast to (batch, heads, queries, keys).
    """
    import torch

    batch, heads, queries, width = query.shape
    keys, together = key.shape[2], (batch, heads // groups, groups * queries)
    scores = torch.matmul(query.reshape(*together, width), key.transpose(2, 3)) * scale
    mask = mask[:, :, :, :keys]
    if mask.dtype == torch.bool:
        mask = torch.where(mask, 0.0, torch.finfo(scores.dtype).min)
    weights = torch.softmax(scores.reshape(batch, heads, queries, keys) + mask, dim=-1)
    mixed = torch.matmul(weights.reshape(*together, keys), value)
    return mixed.reshape(batch, heads, queries, width).transpose(1, 2).contiguous()

"""Attention of grouped queries, compared with torch's own, with masks of both kinds."""

import pytest

pytestmark = pytest.mark.export
torch = pytest.importorskip("torch", reason="needs the export extra")

from linalign_lite.onnx.grouped_attention import attend, grouped_attention  # noqa: E402

BATCH, HEADS, GROUPS, QUERIES, KEYS, WIDTH = 2, 6, 3, 4, 7, 8


def tensors() -> list:
    torch.manual_seed(0)
    query = torch.randn(BATCH, HEADS, QUERIES, WIDTH)
    return [query, *(torch.randn(BATCH, HEADS // GROUPS, KEYS, WIDTH) for _ in range(2))]


def expected(mask):
    query, key, value = tensors()
    repeated = (t.repeat_interleave(GROUPS, dim=1) for t in (key, value))
    out = torch.nn.functional.scaled_dot_product_attention(query, *repeated, mask, scale=0.3)
    return out.transpose(1, 2)


@pytest.mark.parametrize("added", [False, True])
def test_it_is_torchs_attention(added):
    mask = torch.rand(BATCH, 1, QUERIES, KEYS) < 0.7
    mask[..., 0] = True
    if added:
        mask = torch.where(mask, 0.0, torch.finfo(torch.float32).min)
    got = attend(*tensors(), torch.nn.functional.pad(mask, (0, 3)), GROUPS, 0.3)
    assert torch.allclose(got, expected(mask), atol=1e-6)


def test_a_query_that_sees_nothing_gives_numbers():
    mask = torch.zeros(BATCH, 1, QUERIES, KEYS, dtype=torch.bool)
    assert torch.isfinite(attend(*tensors(), mask, GROUPS, 0.3)).all()


def test_transformers_own_function_is_there_again_and_takes_what_is_not_known():
    from types import SimpleNamespace

    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as FUNCTIONS

    usual, called = FUNCTIONS["sdpa"], []
    FUNCTIONS["sdpa"] = lambda *_, **settings: called.append(settings) or (None, None)
    module = SimpleNamespace(num_key_value_groups=GROUPS)
    mask = torch.ones(BATCH, 1, QUERIES, KEYS, dtype=torch.bool)
    with grouped_attention():
        ours = FUNCTIONS["sdpa"](module, *tensors(), mask, scaling=0.3, sliding_window=None)[0]
        FUNCTIONS["sdpa"](module, *tensors(), mask, scaling=0.3, s_aux=torch.zeros(HEADS))
        FUNCTIONS["sdpa"](module, *tensors(), None, scaling=0.3)
    assert torch.allclose(ours, expected(mask), atol=1e-6)
    assert len(called) == 2
    assert FUNCTIONS["sdpa"] is usual


@pytest.mark.parametrize("family", ["Llama", "Gemma3"])
def test_models_with_grouped_queries_attend_by_it(family):
    import transformers
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as FUNCTIONS

    config = "Gemma3TextConfig" if family == "Gemma3" else f"{family}Config"
    settings = getattr(transformers, config)(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=1, head_dim=8,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=3, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(settings).eval()
    feeds = {"input_ids": torch.tensor([[5, 6, 7, 8, 9], [5, 6, 0, 0, 0]])}
    feeds["attention_mask"] = (feeds["input_ids"] > 0).long()
    with torch.no_grad():
        want = model(**feeds, use_cache=False).logits
        usual = FUNCTIONS["sdpa"]
        FUNCTIONS["sdpa"] = lambda *_, **settings: pytest.fail(f"not understood: {settings}")
        try:
            with grouped_attention():
                got = model(**feeds, use_cache=False).logits
        finally:
            FUNCTIONS["sdpa"] = usual
    seen = feeds["attention_mask"] > 0
    assert torch.allclose(got[seen], want[seen], atol=1e-5)

"""Tokenizers, architectures and optimizers of the two demo models. See train_demo.py."""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

BOS, EOS, UNK = "<s>", "</s>", "<unk>"
CONTEXT = 384


@dataclass(frozen=True)
class Recipe:
    """Settings in which the two demo models differ, beside tokenizer and architecture."""

    parity: int  # of the stories to train on: index % 2
    seed: int
    vocab: int


RECIPES = {
    "ash": Recipe(parity=0, seed=11, vocab=1024),
    "birch": Recipe(parity=1, seed=23, vocab=2048),
}


def train_tokenizer(name: str, stories: list[str], vocab: int) -> Tokenizer:
    """`ash`: SentencePiece-like BPE with byte fallback. `birch`: byte-level BPE (GPT-2)."""
    if name == "ash":
        byte_tokens = [f"<0x{b:02X}>" for b in range(256)]
        tok = Tokenizer(models.BPE(unk_token=UNK, byte_fallback=True, fuse_unk=True))
        tok.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        )
        tok.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
        tok.decoder = decoders.Sequence(
            [
                decoders.Replace("\u2581", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
        trainer = trainers.BpeTrainer(
            vocab_size=vocab,
            special_tokens=[UNK, BOS, EOS, *byte_tokens],
            limit_alphabet=80,
            show_progress=False,
        )
        tok.train_from_iterator(stories, trainer)
        # byte tokens are ordinary entries of the vocabulary, used by byte fallback
        keep = {UNK, BOS, EOS}
        data = json.loads(tok.to_str())
        data["added_tokens"] = [t for t in data["added_tokens"] if t["content"] in keep]
        tok = Tokenizer.from_str(json.dumps(data))
    else:
        tok = Tokenizer(models.BPE())
        tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tok.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab,
            special_tokens=[BOS, EOS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tok.train_from_iterator(stories, trainer)
    tok.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tok.token_to_id(BOS))]
    )
    return tok


def new_model(name: str, tok: Tokenizer) -> torch.nn.Module:
    """Make an untrained model: `ash` is a Llama, `birch` a GPT-2."""
    bos, eos = tok.token_to_id(BOS), tok.token_to_id(EOS)
    if name == "ash":
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=tok.get_vocab_size(),
                hidden_size=128,
                intermediate_size=352,
                num_hidden_layers=5,
                num_attention_heads=8,
                num_key_value_heads=4,
                max_position_embeddings=CONTEXT,
                tie_word_embeddings=True,
                bos_token_id=bos,
                eos_token_id=eos,
                attn_implementation="sdpa",
            )
        )
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=tok.get_vocab_size(),
            n_embd=144,
            n_layer=4,
            n_head=6,
            n_positions=CONTEXT,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            tie_word_embeddings=True,
            bos_token_id=bos,
            eos_token_id=eos,
            attn_implementation="sdpa",
        )
    )


def optimizers(model: torch.nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Muon on the matrices of the blocks, AdamW on embeddings, norms and biases."""
    matrices, rest = [], []
    for key, p in model.named_parameters():
        inner = p.ndim == 2 and not any(w in key for w in ("embed", "wte", "wpe", "lm_head"))
        (matrices if inner else rest).append(p)
    return [
        torch.optim.Muon(
            matrices, lr=lr * 5, weight_decay=0.05, adjust_lr_fn="original", momentum=0.95
        ),
        torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]

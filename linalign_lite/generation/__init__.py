"""Generate text across two models, and evaluate how well that works.

A source model reads, an affine map carries its last hidden state over, the target's token head
chooses the next token: prompts go in, a `Generation` comes out (`hybrid`). `decoding` holds
sampling, the KV cache and the text between two tokenizers; `evaluation` scores maps on texts.
"""

"""Generate text across two models, and evaluate how well that works.

An affine map takes a source model's last hidden state to the target's, whose token head chooses
the next token: prompts go in, a `Generation` comes out (`hybrid`). `decoding` holds sampling, the
KV cache and text conversion between two tokenizers; `evaluation` evaluates maps on texts.
"""

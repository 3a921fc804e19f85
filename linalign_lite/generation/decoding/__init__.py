"""Parts of generation: a model with a KV cache, incremental tokenizing, detokenizing, sampling.

Each works on one model or one tokenizer; `linalign_lite.generation.hybrid` combines them.
"""

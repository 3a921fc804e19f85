"""Texts become hidden states: an exported model runs in onnxruntime, on CPU.

A model folder and texts (a file, a pipe, a sequence) go in; `HiddenStates`, or a folder of shards,
come out. `texts` and `corpus` read, `tokenizer` and `batching` prepare, `session` loads the model,
`inference` runs it, `extract` joins all of these. `tokenizer_compatibility` compares two tokenizers
before any model is run.
"""

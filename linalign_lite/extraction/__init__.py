"""Extract hidden states: run an exported model over texts with onnxruntime, on CPU.

A model folder and texts (a file, a pipe, a sequence) go in; `HiddenStates`, or a folder of shards,
come out. `texts` and `corpus` read, `tokenizer` and `batching` prepare, `session` loads the model,
`inference` runs it, `pipeline` combines them. `tokenizer_compatibility` compares two tokenizers
without running a model.
"""

"""Export models, maps and heads to ONNX, and import them.

`model_export` and `import_exported` make an exported model folder from a Hugging Face model or from
a graph that somebody else exported; `export_linear` and `fuse_model` write ONNX artefacts with a
card (docs/FORMAT.md, section 8), `import_linear` and `metadata` read them. Heavy packages are
imported inside functions; without them MissingExtraError is raised.
"""

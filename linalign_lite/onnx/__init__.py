"""Exporting models to ONNX, and cutting token heads off exported graphs.

Every module here imports its heavy packages inside functions, so that the base install can name
them; a missing one is a MissingExtraError.
"""

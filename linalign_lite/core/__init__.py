"""The types that all other rooms exchange, and their files.

`space` names whose hidden states they are; `hidden_states`, `affine_map` and `head` hold arrays of
one space or lead from one to another; `serialization` saves and loads them, `shards` does so for
folders larger than memory. `metrics` are plain functions of arrays, `token_alignment` pairs the
tokens of two models, `executor` runs tasks in order. Nothing here runs a model or fits anything.
"""

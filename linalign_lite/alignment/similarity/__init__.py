"""Measure the similarity of models' hidden states, and its level by chance.

States of the same texts go in, `Similarities` come out (`results`). `model_statistics` are computed
once per model, `pair_statistics` per pair; `measures` and `cross_validation` have the formulas,
`comparison` the null of shuffled pairs. docs/DESIGN.md, "Similarity".
"""

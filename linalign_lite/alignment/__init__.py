"""Fit affine maps between the hidden states of two models, and measure their similarity.

Pairs of hidden states (arrays, `HiddenStates`, folders of shards) or their moments go in; an
`AffineMap` and a report come out. `least_squares` has ridge, least squares and Procrustes, `kl`
fits a map for a head, `few_shot` joins a few texts to many public ones, `streaming` accumulates
`moments` of folders larger than memory, `similarity` compares models.
"""

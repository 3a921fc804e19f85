"""Fit maps from many public texts and few in-domain texts.

`weighted_least_squares` merges moments, `head_aware` minimises a head's divergence and
measures it on held-out few texts, `weighting` has the weights to try, `joint_fit` the public
function. States of both sets go in; a map and a `FewReport` come out. docs/DESIGN.md, section "Few
texts of the right kind".
"""

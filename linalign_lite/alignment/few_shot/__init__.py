"""Fit maps from many public texts and few in-domain texts.

`weighting` has the weights to try and least squares on merged moments, `head_aware` minimises a
head's divergence, `joint_fit` has the public function. States of both sets go in; a map and a
`FewReport` come out. docs/DESIGN.md, section "Few texts of the right kind".
"""

"""Fit maps that keep the predictions of the target's head, by KL divergence.

`objective` has the loss and its gradient, `optimizer` and `stochastic` two ways to minimise it,
`problem` the choice between them, `divergence_fit` the search for a penalty and the fit,
`checkpoint` its resumption. Source and target states and a head go in; a map and a `KlReport` come
out. docs/DESIGN.md, section 5.
"""

"""Attacks on a head of one's own by the holder of a client's key: what `audit` runs.

`report` attacks single responses and counts queries; `coarse_heads` has the mathematics of weights
on a grid, `coarse_attack` reads such a head with honest queries.
"""

"""Fit a map without showing the states: encrypted cross-products. docs/PRIVATE_FIT.md."""

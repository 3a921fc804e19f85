"""Head-aware maps: what the target's head says after the map should be what it says without it.

objective (the loss and its gradient), lesson (what is to be learnt, row by row), descent (the
minimisation, in stages), fitting (penalty, held-out texts, the map). docs/DESIGN.md, section 5.
"""

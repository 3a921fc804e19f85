"""Head-aware maps: what the target's head says after the map should be what it says without it.

objective (what is to be learnt, row by row; the loss and its gradient), descent (the minimisation),
fitting (penalty, held-out texts, growing parts, the map), checkpoint (what a stopped job goes on
from). docs/DESIGN.md, section 5.
"""

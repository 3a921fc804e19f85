"""Maps from many public texts and few texts of the kind that the map is for.

squares (least squares, from merged moments), aware (for a head), judging (how good a map is on the
few), choice (what was tried and what came of it), report, fitting (the door). docs/DESIGN.md,
section "Few texts of the right kind".
"""

"""How alike two models' hidden states are, and how alike they would be by chance.

results (what a comparison gives), views (what can be told from one model alone, once), pairs (the
products of two models), measures and maps (each figure), neighbours (the only one that needs
distances), comparing (N models, with the null of shuffled pairs). docs/DESIGN.md, "Similarity".
"""

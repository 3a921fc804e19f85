"""What generation is made of: reading with a cache, tokenising a growing text, speaking, choosing.

Nothing here knows of two models; `linalign_lite.generation.hybrid` puts the parts together.
"""

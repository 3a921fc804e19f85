"""Retrieval across models: search, its measures, and maps that keep rankings."""

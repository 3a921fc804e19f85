"""Fuzzing of every loader of outside data. README.md says how to run it."""

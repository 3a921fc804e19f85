"""The tables of README and docs, a module for each kind; each names its own in ``TABLES``."""

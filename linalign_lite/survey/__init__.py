"""N models side by side: every ordered pair measured on every task. docs/FORMAT.md, section 6.

results (what is found, and its file), config (what is asked), the rest how it is measured.
"""

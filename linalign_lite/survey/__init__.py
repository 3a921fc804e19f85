"""Surveys: measure every ordered pair of N models on every task. docs/FORMAT.md, section 6.

In: a configuration (config). Out: rows (results, results_file, validation) and a report (report).
run works through lists of jobs (*_jobs); artefacts and cache compute each intermediate result once.
"""

"""Limits on what is scored for each account, in states and in bits, and the responses kept.

A query to a head goes through its `ledger`, which charges the `budget` (a file, `database`) before
it is scored, and keeps the response (`kept_responses`), so that sent again it costs nothing.
"""

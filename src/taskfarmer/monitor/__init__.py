"""Readers of the ledger: summaries, attempts, progress, exports. Nothing here changes a farm."""

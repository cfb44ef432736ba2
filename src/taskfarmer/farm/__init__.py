"""The farm on disk and the processes that work on it: ledger, loop, guardian, executors, views."""

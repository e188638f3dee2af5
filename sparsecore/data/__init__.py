"""Data sets: load, fetch, verify, pack."""

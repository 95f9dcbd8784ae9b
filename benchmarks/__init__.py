"""Measurements against peers. Each module prints a table and the command that makes it: `python -m benchmarks.NAME`."""

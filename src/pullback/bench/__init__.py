"""Benchmarks against other libraries: `python -m benchmarks` in a checkout, `pullback bench` for users.

Every contender runs in a process of its own, so that no thread pool disturbs another, and all of them in turns, so that
a slow moment of the machine falls on each. Their first results are compared: what differs is not measured.
"""

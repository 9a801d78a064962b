"""Benchmarks: flightserve against the barest server that could answer the same calls.

`python -m benchmarks` measures every figure in turn, flightserve and its bare baseline alternating in the same
run (A B A B ...), and prints medians, spread, the ratio and its bar. Servers, flightserve and load generators
each have their own process, so that no side pays for another's interpreter lock; all share the machine's cores.
"""

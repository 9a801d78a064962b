"""`make bench-peers`: flightserve beside other systems, each of which does the same work.

A contest is one measure of several systems that take turns, round by round. `bars` says what of it flightserve has to
reach, `tables` and `charts` show it.
"""

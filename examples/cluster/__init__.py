"""The flights example on a Ray cluster of three nodes, all on this machine."""

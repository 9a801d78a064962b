"""The bare baselines: servers that only echo, and the Ray actor. Each runs alone in its process."""

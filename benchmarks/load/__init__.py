"""Load generators. Each runs alone in its process and takes its orders as JSON lines (`benchmarks.load.orders`)."""

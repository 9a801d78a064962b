"""SQL over the tables of a deployment: a locked DuckDB in each replica, named queries, merged executions."""

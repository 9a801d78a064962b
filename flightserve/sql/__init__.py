"""SQL over the tables of a deployment: a locked DuckDB in each replica, named queries, merged executions."""

from __future__ import annotations

from flightserve.sql.warehouse.declare import Warehouse as Warehouse

__all__ = ["Warehouse"]

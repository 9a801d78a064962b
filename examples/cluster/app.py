"""The flights, with replicas on every node: each node has two `place`s, and a replica takes one."""

from __future__ import annotations

import flightserve as fs
from examples.flights.app import Flights
from examples.flights.warehouse import warehouse

PLACES = 2

app = fs.App(
    fs.bind(Flights).options(replicas=3, num_cpus=0, resources={"place": 1}),
    warehouse().bind().options(replicas=1, num_cpus=0, resources={"place": 1}),
)

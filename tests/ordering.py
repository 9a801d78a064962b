"""In which order several processes take the files of the tests.

Files that wait for other processes (of Ray, of a browser) leave a processor idle; the others keep one busy. Were each
kind taken in one go, as the alphabet has them, the machine would idle first and be short of processors afterwards. So
at any time some are of the one kind and some of the other. Of those that wait, long ones come first, and none is last.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

# A folder whose files all ask for one system.
SERVED = "tests/served/"
# Files whose tests ask for `flights_addresses`.
FLIGHTS = "flights_addresses"
OF_FLIGHTS = (
    "tests/docs/test_snippets.py",
    "tests/examples/test_flights_served.py",
    "tests/examples/test_idle_connections.py",
)
# What takes longest of all that waits, in seconds, roughly.
LONG_S = {
    SERVED: 80,
    FLIGHTS: 170,
    "tests/benchmarks/test_small.py": 120,
    "tests/control/test_changes.py": 110,
    "tests/frontends/http/test_console.py": 50,
    "tests/control/test_ray.py": 50,
}
OTHERS_S = 25
# The last one that waits begins before the last ones that do not.
UNTIL = 0.9


def scope_of(nodeid: str) -> str:
    """Tests with the same answer run in one process."""
    file = nodeid.partition("::")[0]
    if file.startswith(SERVED):
        return SERVED
    return FLIGHTS if file in OF_FLIGHTS else file


def mixed(scopes: Sequence[str], waiting: Collection[str]) -> list[str]:
    """All scopes: those that wait spread among the others by the time that they take."""
    wait = sorted((s for s in scopes if s in waiting), key=lambda scope: -LONG_S.get(scope, OTHERS_S))
    work = [scope for scope in scopes if scope not in waiting]
    whole_s, before_s = sum(LONG_S.get(scope, OTHERS_S) for scope in wait), 0
    places = {scope: number / len(work) for number, scope in enumerate(work)}
    for scope in wait:
        places[scope] = UNTIL * before_s / whole_s
        before_s += LONG_S.get(scope, OTHERS_S)
    return sorted([*wait, *work], key=places.__getitem__)

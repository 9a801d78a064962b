"""What every benchmark gets: settings, processes that are started once and ended together, and alternation."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from benchmarks.figures import Figure, Sample
from benchmarks.peers import Peer
from benchmarks.processes import Load, Server

Measure = Callable[[], Sample]
_RUN = ("-m", "flightserve", "run")


def serving(app: str) -> tuple[str, ...]:
    """What starts flightserve with that app, on free ports."""
    return (
        *(*_RUN, app, "--http-port", "0", "--grpc-port", "0"),
        *("--flight-port", "0", "--zmq-port", "0"),
    )


FLIGHTSERVE = serving("benchmarks.identity:app")


@dataclass(frozen=True, slots=True)
class Settings:
    """How much to measure: rounds (each side once), seconds of one side of a round, minutes of the memory run,
    fresh starts of the startup figure (0: the shared start is the sample), and TPC-H's scale. `brief` takes one round
    where rounds are long, and less of what has a size of its own. `subject` false leaves flightserve out, to look at
    the baselines alone; `peers` false leaves other serving systems out. `figures` leaves out figures that have none of
    these texts in their names. More `frontends` than one share flightserve's ports for HTTP and gRPC."""

    rounds: int = 7
    seconds: float = 2.0
    load_minutes: float = 10.0
    load_slice_s: float = 10.0
    starts: int = 3
    scale: float = 1.0
    brief: bool = False
    subject: bool = True
    peers: bool = True
    figures: tuple[str, ...] = ()
    frontends: int = 1

    @classmethod
    def small(cls, subject: bool = True) -> Settings:
        """The size the tests run: seconds in all, figures without meaning."""
        return cls(
            1, 0.25, load_minutes=0.03, load_slice_s=0.3, starts=0, scale=0.01, brief=True, subject=subject, peers=False
        )

    @property
    def long_rounds(self) -> range:
        """The numbers of the rounds, where one takes long."""
        return range(1 if self.brief else self.rounds)


class Bench:
    """One run of some benchmarks. Leaving the context ends every process that was started in it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._stack = ExitStack()
        self._servers: dict[tuple[str, ...], Server] = {}
        self._loads: dict[str, Load] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    def server(self, *argv: str) -> Server:
        """The server started by these arguments of Python, started at the first call."""
        if argv not in self._servers:
            more = self._frontends if argv[: len(_RUN)] == _RUN else ()
            self._servers[argv] = self._stack.enter_context(Server((*argv, *more)))
        return self._servers[argv]

    @property
    def _frontends(self) -> tuple[str, ...]:
        frontends = self.settings.frontends
        return () if frontends == 1 else ("--frontends", str(frontends), "--share-ports")

    def bare(self, module: str, *arguments: str) -> Server:
        """The bare server of `benchmarks.bare.<module>`."""
        return self.server("-m", f"benchmarks.bare.{module}", *arguments)

    def flightserve(self) -> Server:
        """flightserve with the identity deployment, started by its own command."""
        return self.server(*FLIGHTSERVE)

    def end_flightserve(self) -> None:
        """Stop the shared flightserve, if it runs; the next use starts another."""
        self.end_server(*FLIGHTSERVE)

    def end_peer(self, peer: Peer, what: str) -> None:
        """Stop a peer's server, if it runs."""
        self.end_server(*_serving(peer, what))

    def end_server(self, *argv: str) -> None:
        """Stop the server that was started by these arguments, if it runs; the next use starts another."""
        server = self._servers.pop(argv, None)
        if server is not None:
            server.stop()

    def peer(self, peer: Peer, what: str) -> Server:
        """A peer's server that does `what` (`peers.work`), started at the first call, in the peer's environment."""
        argv = _serving(peer, what)
        if argv not in self._servers:
            self._servers[argv] = self._stack.enter_context(Server(argv, str(peer.environment.python)))
        return self._servers[argv]

    def load(self, module: str, python: str = sys.executable) -> Load:
        """The load generator `benchmarks.<module>`, by that Python: started at the first call, anew where it ended."""
        if module not in self._loads or self._loads[module].process.poll() is not None:
            self._loads[module] = self._stack.enter_context(Load(f"benchmarks.{module}", python))
        return self._loads[module]

    def end_load(self, module: str) -> None:
        """End a load generator that nobody needs any more, if it runs."""
        load = self._loads.pop(module, None)
        if load is not None:
            load.stop()

    def http_url(self, method: str) -> str:
        """Where flightserve takes calls of a method of the identity deployment over HTTP."""
        return f"{self.flightserve().addresses['http']}/v1/Identity/{method}"

    def wants(self, name: str) -> bool:
        """True for a figure that was asked for; all are where none is named."""
        texts = self.settings.figures
        return not texts or any(text.lower() in name.lower() for text in texts)

    def beside(self, peer: Peer, figure: Callable[..., Figure], subject: Measure, baseline: Measure) -> Figure:
        """As `alternate`, against a peer. Where it is not installed the figure says so, and has no samples."""
        if peer.is_installed:
            return self.alternate(figure, subject, baseline)
        return figure(subject=(), baseline=(), notes=(peer.left_out,))

    def alternate(self, figure: Callable[..., Figure], subject: Measure, baseline: Measure) -> Figure:
        """Measure both sides in turn, subject first, `rounds` times, and make the figure of the samples; of no samples
        where nobody asked for it. Sides start their servers when they are called, so that those are left out too. Of
        several rounds one comes before that does not count: who has just said that it is ready still starts a standby,
        and the first round of the side that begins would pay for it."""
        nothing = figure(subject=(), baseline=())
        if not self.wants(nothing.name):
            return nothing
        side = subject if self.settings.subject else None
        if self.settings.rounds > 1:
            alternate(1, side, baseline)
        ours, theirs = alternate(self.settings.rounds, side, baseline)
        return figure(subject=ours, baseline=theirs)


def _serving(peer: Peer, what: str) -> tuple[str, ...]:
    return ("-m", f"benchmarks.peers.{peer.module}", what, *peer.options)


def alternate(rounds: int, subject: Measure | None, baseline: Measure) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """A B A B ...: `rounds` samples of each side; none of a subject that is None."""
    ours: list[Sample] = []
    theirs: list[Sample] = []
    for _ in range(rounds):
        if subject is not None:
            ours.append(subject())
        theirs.append(baseline())
    return tuple(ours), tuple(theirs)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """An entry of the suite: its name for `--only`, what it measures, and the function that does."""

    name: str
    about: str
    run: Callable[[Bench], Sequence[Figure]]

"""Tables that follow their files: a new engine is opened beside the old one, and taken into service in one step.

An engine's configuration is locked once its tables are open, and the files that it may read are fixed with it. So
what changed is never opened in it: there is a new database, with locks of its own (`Generation`). Queries that run go
on in the one they began in, which closes after the last of them. Where the new files cannot be read, or a query by name
would not fit them any more, the old generation stays in service and `problem` says why. What cannot be read when the
first generation is opened is left out, unless the options are strict, and told of (`Generation.problems`); what was
served once is never left out.

A table's version is the fingerprint of its files, taken before they are read: what is written meanwhile is seen at the
next look.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import duckdb
import pyarrow as pa

from flightserve import threads
from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.errors import Cancelled, ConfigError, DeadlineExceeded, FlightserveError
from flightserve.sql.engine import Engine, EngineOptions
from flightserve.sql.engine.errors import scrub, translate
from flightserve.sql.engine.narrowed import Narrowed
from flightserve.sql.engine.query_watch import QueryWatch
from flightserve.sql.sources import Known, Source, describe_sources, find_sources
from flightserve.sql.sources.problems import Leniency, SourceError, SourceProblem, listed, public_text
from flightserve.sql.warehouse.limits import Limits
from flightserve.sql.warehouse.queries import Prepared, Runner
from flightserve.sql.warehouse.row_counts import count_rows
from flightserve.sql.warehouse.visible_tables import VisibleTables

log = logging.getLogger(__name__)

# Prepares the queries by name, and raises ConfigError for one that does not fit the tables.
Prepare = Callable[[Runner], Mapping[str, Prepared]]

LOOK_AGAIN_S: Final = 0.05


class Found(NamedTuple):
    """What was found for the tables: the sources, and what of them cannot be served."""

    sources: tuple[Source, ...]
    problems: tuple[SourceProblem, ...]

    @property
    def state(self) -> tuple[object, ...]:
        """Equal for what was found and has not changed since."""
        return (
            {source.name: _fingerprint(source) for source in self.sources},
            {problem.place for problem in self.problems},
        )


def _fingerprint(source: Source) -> str:
    try:
        return source.fingerprint()
    except SourceError:
        # A file is gone already. Next time it is not found, which makes a difference.
        return ""


def find(tables: Mapping[str, Any], options: EngineOptions, known: Known | None) -> Found:
    """Look for the tables. Raises ConfigError."""
    leniency = Leniency(options.strict)
    sources = find_sources(tables, known, leniency, options.csv)
    return Found(sources, tuple(leniency.problems))


class Generation:
    """One state of the tables: the engine that has them, and the queries prepared on it. `versions` are the tables',
    `state` is of all that was found for them, and `problems` are what of that is left out."""

    def __init__(self, found: Found, options: EngineOptions, watch: QueryWatch, prepare: Prepare) -> None:
        """Raises ConfigError."""
        self.state = found.state
        leniency = Leniency(options.strict)
        leniency.problems += found.problems
        self.engine = Engine(found.sources, options, leniency)
        self._watch = watch
        self.problems = tuple(leniency.problems)
        self.versions = self.engine.versions
        try:
            self.runner = _runner(self.engine, watch)
            self.visible = VisibleTables(self.engine.tables, self.runner, self._narrowed, options.catalog)
            self.named = prepare(self.runner)
        except BaseException:
            self.engine.close()
            raise
        self.using = 0
        self.retired = False

    def __repr__(self) -> str:
        return f"<Generation of {len(self.versions)} tables, {self.using} in use{', retired' * self.retired}>"

    def _narrowed(self, tables: frozenset[str]) -> Runner:
        """Who runs the statements of those who see these tables."""
        return _runner(self.engine, self._watch, Narrowed(self.engine, tables))

    @functools.cached_property
    def row_counts(self) -> Mapping[str, int]:
        """How many rows each table has (`sql.warehouse.row_counts`)."""
        return count_rows(self.engine)

    @property
    def version_set(self) -> set[tuple[str, str]]:
        """The tables' names with their versions."""
        return set(self.versions.items())

    def shapes(self) -> dict[str, tuple[pa.Schema, pa.Schema]]:
        """What each query by name takes and gives."""
        return {name: (prepared.parameters.schema, prepared.result) for name, prepared in self.named.items()}


def _runner(engine: Engine, watch: QueryWatch, narrowed: Narrowed | None = None) -> Runner:
    """Who runs its statements. Raises ConfigError."""
    if engine.options.engine != "daft":
        return Runner(engine, watch, narrowed)
    from flightserve.sql.daft.runner import DaftRunner

    return DaftRunner(engine, watch, narrowed)


class Generations:
    """The generation in service, and those that still run something. Any thread.

    `on_change` is called, with how many engines there are, before one is opened and after one was closed; `on_switch`
    with the generation that came into service.
    """

    def __init__(
        self,
        tables: Mapping[str, Any],
        options: EngineOptions,
        watch: QueryWatch,
        prepare: Prepare,
        known: Known | None = None,
    ) -> None:
        """`known` is what `find_sources` knows of the tables' columns already. Raises ConfigError."""
        self._find = functools.partial(find, tables, options, known)
        self._make = functools.partial(Generation, options=options, watch=watch, prepare=prepare)
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self.current = self._make(self._find())
        self._closed = False
        self._retired = 0
        self.on_change: list[Callable[[int], None]] = []
        self.on_switch: list[Callable[[Generation], None]] = []
        # Why the files as they are now are not in service, "" where they are.
        self.problem = ""
        self.changes = 0

    @contextlib.contextmanager
    def using(self) -> Iterator[Generation]:
        """The generation of now, which stays open until the block ends."""
        with self._lock:
            generation = self.current
            generation.using += 1
        try:
            yield generation
        finally:
            with self._lock:
                generation.using -= 1
                over = generation.retired and not generation.using
            if over:
                self._close(generation)

    def look(self) -> bool:
        """Look at the files, and take a new generation into service where they changed; True where it did. Errors go
        to the log and to `problem`."""
        with self._opening:
            if self._closed:
                return False
            try:
                found = self._find()
                if found.state == self.current.state:
                    self._say("")
                    return False
                self._replace(found)
            except (FlightserveError, duckdb.Error, OSError, pa.ArrowException) as error:
                text = translate(error).message
                self._say(text, public_text(error, text))
                return False
            self._say("")
            return True

    def _replace(self, found: Found) -> None:
        before = self.current
        self._told(more=1)
        try:
            generation = self._make(found)
            known = {problem.place for problem in before.problems}
            worse = [problem for problem in generation.problems if problem.place not in known]
            if worse:
                generation.engine.close()
                raise SourceError(*worse)
            changed = [name for name, shape in generation.shapes().items() if shape != before.shapes()[name]]
            if changed:
                generation.engine.close()
                raise ConfigError(
                    f"query {', '.join(changed)} would take or give other columns, which its callers were told; deploy "
                    "the app again"
                )
        except BaseException:
            self._told()
            raise
        with self._lock:
            self.current, before.retired = generation, True
            self._retired += 1
            self.changes += 1
            over = not before.using
        for tell in self.on_switch:
            tell(generation)
        names = [name for name, version in generation.versions.items() if before.versions.get(name) != version]
        log.info("tables %s are served as their files are now", ", ".join(names))
        _say_who_is_new(before.engine.sources, generation.engine.sources)
        if over:
            self._close(before)

    def _close(self, generation: Generation) -> None:
        generation.engine.close()
        with self._lock:
            self._retired -= 1
        self._told()

    def _told(self, more: int = 0) -> None:
        for tell in self.on_change:
            tell(1 + self._retired + more)

    def _say(self, problem: str, public: str = "") -> None:
        shown = scrub(public or problem)
        if shown and shown != self.problem:
            log.error("the tables stay as they were: %s", problem)
        self.problem = shown

    @property
    def note(self) -> str:
        """What is not served as it should be, for whoever asks how the replica is; "" where all is."""
        left_out = [f"left out: {scrub(problem.public)}" for problem in self.current.problems]
        return listed([*left_out, *filter(None, [self.problem and f"the tables stay as they were: {self.problem}"])])

    def close(self) -> None:
        """Close the engine in service."""
        with self._opening:
            self._closed = True
        self.current.engine.close()


def _say_who_is_new(before: Sequence[Source], now: Sequence[Source]) -> None:
    """Tables that came with new files, or went with their last."""
    names, known = {source.name for source in before}, {source.given for source in before}
    # What was left out until now is new, but no surprise.
    new = [source for source in now if source.name not in names and source.given in known]
    for given in dict.fromkeys(source.given for source in new):
        mine = [source for source in new if source.given == given]
        log.warning("new files in %s are not of its tables, but tables of their own: %s", given, describe_sources(mine))
    gone = names - {source.name for source in now}
    if gone:
        log.warning("tables %s are no longer served: their files are gone", ", ".join(sorted(gone)))


class Refresher:
    """Looks again and again, every `every_s` (0: only when told to), on a thread of its own: a look that opens large
    tables may outlast any request."""

    def __init__(self, look: Callable[[], object], every_s: float) -> None:
        self._look = look
        self._every_s = every_s
        self._changed = threading.Condition()
        self._wanted = self._done = 0
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, unless it has."""
        with self._changed:
            if self._thread is None:
                self._thread = threads.start("sql-refresh", self._run, lambda: self._stopping, again=True)

    def stop(self) -> None:
        """End the thread, after the look that it is in."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(5)

    def now(self, limits: Limits) -> None:
        """Look, and wait until that is done. Raises DeadlineExceeded or Cancelled; the look goes on."""
        self.start()
        with self._changed:
            self._wanted += 1
            mine = self._wanted
            self._changed.notify_all()
            while self._done < mine and not self._stopping:
                if limits.cancelled():
                    raise Cancelled("nobody waits for the tables any more")
                left_ns = limits.deadline_ns - monotonic_ns()
                if left_ns <= 0:
                    raise DeadlineExceeded("the tables are still being read; the look goes on")
                self._changed.wait(min(LOOK_AGAIN_S, left_ns / NS_PER_S))

    def _run(self) -> None:
        with self._changed:
            while self._due():
                begun = self._wanted
                self._changed.release()
                try:
                    self._look()
                except Exception:
                    # Who waits for this look has nothing of it; the next one is made all the same.
                    log.exception("a look at the tables' files failed")
                finally:
                    self._changed.acquire()
                self._done = begun
                self._changed.notify_all()

    def _due(self) -> bool:
        """Wait until it is time to look; False at the end."""
        self._changed.wait_for(lambda: self._stopping or self._wanted > self._done, self._every_s or None)
        return not self._stopping

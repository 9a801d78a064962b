"""What `flightserve top` shows, as lines of text for a terminal of some size. Pure.

Each app has a head, its deployments and its processes. What finds no room is left out from below and counted, and comes
with the arrow keys; columns that find none are left out from the right but for those that say more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from flightserve.cli.top.figures import (
    AppFigures,
    DeploymentFigures,
    ProcessFigures,
    sorted_deployments,
    sorted_processes,
)
from flightserve.wire.log_lines import neutral
from flightserve.wire.log_text import DIM, painted

R = TypeVar("R")

HELP: Final = "q ends  s sorts  a other app  \N{UPWARDS ARROW}\N{DOWNWARDS ARROW} more"
WAITING: Final = "no flightserve app of yours runs on this machine; one that starts is shown"
# The least that is of use: a head, and a line of each table.
COLUMNS_MIN: Final = 40
ROWS_MIN: Final = 8
NAME_MAX: Final = 28
_HEAD: Final = "7"
_BOLD: Final = "1"
_GOOD: Final = "32"
_BUSY: Final = "33"
_BAD: Final = "31"
_PHASES: Final = {"ready": _GOOD, "starting": _BUSY, "draining": _BUSY, "degraded": _BAD, "failed": _BAD}


@dataclass(frozen=True, slots=True)
class TopCell:
    """What stands in a column of one line, and its style."""

    text: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class TopColumn(Generic[R]):
    """A column of rows of some kind. The higher its rank, the sooner it makes room."""

    head: str
    width: int
    cell: Callable[[R], TopCell]
    rank: int = 0
    left: bool = False


@dataclass(frozen=True, slots=True)
class TopChoice:
    """What a person chose: the order, one app or all ("" is all), and how far down the rows begin."""

    sort: str = "name"
    app: str = ""
    skipped: int = 0


# ---- numbers


def count(value: float) -> str:
    """12, 1.2k, 3.4M."""
    for bound, divisor, unit in ((1e3, 1, ""), (1e6, 1e3, "k"), (1e9, 1e6, "M"), (1e12, 1e9, "G")):
        if value < bound * 0.9995:
            digits = 1 if unit and value < 99.95 * divisor else 0
            return f"{value / divisor:.{digits}f}{unit}"
    return f"{value / 1e12:.3g}T"


def rate(value: float) -> str:
    """The same, with a digit after the point where it is less than one a second."""
    return f"{value:.1f}" if 0 < value < 0.95 else count(value)


def duration(value_ms: float | None) -> str:
    """230us, 4.1ms, 2.3s; a dash where it is not known."""
    if value_ms is None:
        return "-"
    if value_ms < 0.9995:
        return f"{value_ms * 1000:.0f}us"
    if value_ms < 999.5:
        return f"{value_ms:.1f}ms" if value_ms < 99.95 else f"{value_ms:.0f}ms"
    return f"{value_ms / 1000:.1f}s" if value_ms < 99_950 else f"{value_ms / 1000:.0f}s"


def share(value: float | None) -> str:
    """In percent."""
    return "-" if value is None else f"{value * 100:.0f}%"


def size(value: float) -> str:
    """64M, 1.5G: of 1,024."""
    for unit in ("", "K", "M", "G"):
        if value < 1023.5:
            return f"{value:.0f}{unit}" if value >= 9.95 or not unit else f"{value:.1f}{unit}"
        value /= 1024
    return f"{value:.1f}T"


def age(value_s: float) -> str:
    """12s, 5m, 3h, 2d."""
    for bound, divisor, unit in ((99.5, 1, "s"), (5970, 60, "m"), (172_800, 3600, "h")):
        if value_s < bound:
            return f"{value_s / divisor:.0f}{unit}"
    return f"{value_s / 86_400:.0f}d"


# ---- columns


def _warned(value: float, text: str, style: str) -> TopCell:
    return TopCell(text, style if value > 0 else "")


def _replicas(each: DeploymentFigures) -> TopCell:
    view = each.view
    return TopCell(f"{view.ready}/{view.desired}", _GOOD if view.ready >= view.desired else _BUSY)


def _load(value: float | None) -> TopCell:
    return TopCell(share(value), _BUSY if value is not None and value > 0.9 else "")


def _deployment_name(each: DeploymentFigures) -> TopCell:
    state = "" if each.view.state == "served" else f" {each.view.state}"
    return TopCell(f"{neutral(each.view.name)}{state}")


_DEPLOYMENTS: Final[Sequence[TopColumn[DeploymentFigures]]] = (
    TopColumn("DEPLOYMENT", 0, _deployment_name, left=True),
    TopColumn("READY", 7, _replicas),
    TopColumn("REQ/S", 7, lambda each: TopCell(rate(each.requests_s))),
    TopColumn("ROWS/S", 7, lambda each: TopCell(rate(each.rows_s)), rank=4),
    TopColumn("QUEUE", 6, lambda each: _warned(each.queued, count(each.queued), _BUSY)),
    TopColumn("P50", 7, lambda each: TopCell(duration(each.took.p50_ms)), rank=2),
    TopColumn("P99", 7, lambda each: TopCell(duration(each.took.p99_ms)), rank=1),
    TopColumn("WAIT50", 7, lambda each: TopCell(duration(each.waited.p50_ms)), rank=6),
    TopColumn("WAIT99", 7, lambda each: TopCell(duration(each.waited.p99_ms)), rank=3),
    TopColumn("RUN", 7, lambda each: TopCell(duration(each.run_ms)), rank=5),
    TopColumn("SHED/S", 7, lambda each: _warned(each.shed_s, rate(each.shed_s), _BAD)),
    TopColumn("FAIL/S", 7, lambda each: _warned(each.failed_s, rate(each.failed_s), _BAD), rank=1),
)


def _phase(each: ProcessFigures) -> TopCell:
    phase = each.view.phase
    if phase == "serving":
        return TopCell("ready", _GOOD) if each.view.ready else TopCell("not ready", _BAD)
    return TopCell(phase, _BUSY if phase in ("starting", "draining") else _BAD)


_PROCESSES: Final[Sequence[TopColumn[ProcessFigures]]] = (
    TopColumn("PROCESS", 0, lambda each: TopCell(neutral(each.view.name)), left=True),
    TopColumn("NODE", 15, lambda each: TopCell(neutral(each.node)), rank=2, left=True),
    TopColumn("PHASE", 9, _phase, left=True),
    TopColumn("LOAD", 5, lambda each: _load(each.load)),
    TopColumn("CPU", 5, lambda each: _load(each.cpu)),
    TopColumn("FLIGHT", 6, lambda each: TopCell("-" if each.in_flight is None else count(each.in_flight)), rank=1),
    TopColumn("SHARED", 6, lambda each: TopCell(size(each.shared_bytes)), rank=3),
    TopColumn("RESTARTS", 8, lambda each: _warned(each.view.restarts, str(each.view.restarts), _BUSY), rank=1),
    TopColumn("AGE", 4, lambda each: TopCell(age(each.view.age_s)), rank=4),
    TopColumn("PID", 7, lambda each: TopCell(str(each.view.pid or "-")), rank=5),
)


def _table(
    columns: Sequence[TopColumn[R]], rows: Sequence[R], names: Sequence[str], width: int
) -> Iterator[list[TopCell]]:
    """The head, then the rows, each as wide as there is room."""
    first = min(max([len(columns[0].head), *map(len, names)]), NAME_MAX)
    shown = list(columns)
    while len(shown) > 1 and first + sum(each.width + 1 for each in shown[1:]) > width:
        # The last of those that may go first.
        shown.remove(max(shown[1:], key=lambda each: (each.rank, columns.index(each))))
    widths = [first, *(each.width for each in shown[1:])]
    yield [_fitted(TopCell(each.head, DIM), each, wide) for each, wide in zip(shown, widths, strict=True)]
    for row in rows:
        yield [_fitted(each.cell(row), each, wide) for each, wide in zip(shown, widths, strict=True)]


def _fitted(cell: TopCell, column: TopColumn[R], width: int) -> TopCell:
    text = cell.text if len(cell.text) <= width else f"{cell.text[: width - 1]}\N{HORIZONTAL ELLIPSIS}"
    return TopCell(text.ljust(width) if column.left else text.rjust(width), cell.style)


# ---- the screen


def lines(apps: Sequence[AppFigures], shown: TopChoice, columns: int, rows: int, colour: bool) -> list[str]:
    """As many as there are rows, or fewer."""
    if columns < COLUMNS_MIN or rows < ROWS_MIN:
        return [f"top needs {COLUMNS_MIN} columns and {ROWS_MIN} lines"[:columns]][:rows]
    body = _body(apps, shown, columns)
    room = rows - 2
    skipped = min(shown.skipped, max(0, len(body) - room))
    visible = body[skipped : skipped + room]
    below = len(body) - skipped - len(visible)
    which = shown.app or (f"{len(apps)} apps" if len(apps) != 1 else "1 app")
    bar = f" flightserve top  {which}  by {shown.sort}"
    more = f"{skipped} above, {below} below" if skipped or below else ""
    foot = HELP if len(HELP) + len(more) + 2 <= columns else HELP[: max(0, columns - len(more) - 2)]
    return [
        painted(bar[:columns].ljust(columns), _HEAD, colour),
        *(_painted(line, columns, colour) for line in visible),
        *[""] * (room - len(visible)),
        painted(f"{foot}{more:>{columns - len(foot)}}", DIM, colour),
    ]


def most_skipped(apps: Sequence[AppFigures], shown: TopChoice, columns: int, rows: int) -> int:
    """How far down the rows may begin."""
    return max(0, len(_body(apps, shown, columns)) - (rows - 2))


def _body(apps: Sequence[AppFigures], shown: TopChoice, columns: int) -> list[list[TopCell]]:
    """The lines of the apps that were chosen; of all where the one that was is gone."""
    found: list[list[TopCell]] = []
    chosen = [each for each in apps if each.view.app_id == shown.app]
    if shown.app and not chosen:
        found = [[TopCell(f"app {neutral(shown.app)} is gone", _BAD)], []]
    for each in chosen or apps:
        found += _app(each, shown.sort, columns)
    return found if apps else [*found, [TopCell(WAITING)]]


def _painted(line: Sequence[TopCell], columns: int, colour: bool) -> str:
    out, room = [], columns
    for cell in line:
        text = cell.text[:room]
        out.append(painted(text, cell.style, colour))
        room -= len(text) + 1
        if room <= 0:
            break
    return " ".join(out).rstrip()


def _app(app: AppFigures, sort: str, columns: int) -> Iterator[list[TopCell]]:
    view = app.view
    addresses = " ".join(view.addresses.values())
    phase = TopCell(view.phase, _PHASES.get(view.phase, ""))
    yield [TopCell("app"), TopCell(neutral(view.app_id), _BOLD), phase, TopCell(addresses)]
    for text, style in ((app.problem, _BAD), (view.problem, _BAD), (view.change and f"changing: {view.change}", _BUSY)):
        if text:
            yield [TopCell(" "), TopCell(neutral(text), style)]
    yield [TopCell(" "), TopCell("  ".join(f"{tier} {ready}/{total}" for tier, ready, total in app.tiers()))]
    for node, processes, replicas, load in app.nodes():
        told = f"node {neutral(node)}: {processes} processes, {replicas} replicas, load {share(load)}"
        yield [TopCell(" "), TopCell(told)]
    deployments = sorted_deployments(app, sort)
    yield from _table(_DEPLOYMENTS, deployments, [_deployment_name(each).text for each in deployments], columns)
    processes_ = sorted_processes(app, sort)
    on_nodes = any(True for _ in app.nodes())
    shown = [each for each in _PROCESSES if each.head != "NODE" or on_nodes]
    yield from _table(shown, processes_, [each.view.name for each in processes_], columns)
    yield []

"""The style, checked (after TigerBeetle's tidy.zig): what a reader of this code may rely on.

Looks at every file that git tracks or would track. A line that has to break a rule ends in `# tidy: why`.
"""

from __future__ import annotations

import ast
import fnmatch
import functools
import gc
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
EXPORTS_MAX = 60
GENERATED = "*_pb2*.py*"
EXCUSE = "# tidy: "

# Library: the files that may import it. import-linter cannot tell pyarrow.flight from pyarrow.
QUARANTINE = {
    # Daft's processes are Ray's, and started where its library is used.
    "ray": ["flightserve/control/*", "flightserve/sql/daft/nodes.py"],
    "daft": ["flightserve/sql/daft/*"],
    "pyarrow.flight": ["flightserve/frontends/flight/*", "flightserve/client/flight_*"],
    "grpc": ["flightserve/frontends/grpc/*", "flightserve/frontends/kserve/*", "flightserve/proto/*"],
    "grpc_health": ["flightserve/frontends/grpc/*"],
    "grpc_reflection": ["flightserve/frontends/grpc/*"],
    "zmq": ["flightserve/frontends/zmq/*"],
    "uvicorn": ["flightserve/frontends/http/*"],
    "starlette": ["flightserve/frontends/http/*", "flightserve/frontends/kserve/*"],
    "duckdb": ["flightserve/sql/*"],
    "mmap": ["flightserve/fabric/memory/*"],
    "cryptography": ["flightserve/carrier/securing.py"],
    "prometheus_client": ["flightserve/metrics.py"],
    "sklearn": ["flightserve/models/*"],
    "joblib": ["flightserve/models/*"],
    "skops": ["flightserve/models/*"],
    "onnxruntime": ["flightserve/models/*"],
    "torch": ["flightserve/models/*"],
    "jwt": ["flightserve/identity/*"],
    "tomlkit": ["flightserve/identity/*"],
    "rich": ["flightserve/cli/*"],
    "shtab": ["flightserve/cli/*"],
    "opentelemetry": ["flightserve/tracing/otlp.py", "flightserve/tracing/readable.py"],
}
# Words that the vocabulary (docs/explanation/glossary.md) replaces, in the names of our own classes and functions.
FORBIDDEN_WORDS = {"worker", "instance", "ingress", "scheduler", "job", "arena", "proxy"}
# Put together here, so that this file does not match.
UNFINISHED = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X"]) + r")\b")
WALL_CLOCK = re.compile(r"\btime\.time(?:_ns)?\b|\bdatetime\.(?:now|utcnow)\b|\bdate\.today\b")
# Tickets, tokens and certificates say when they expire, and the statistics of models when one was last asked: as dates.
# Spans are sent with the times of the day, and Ray says as a date when a node that it drains ends.
MAY_ASK_THE_DATE = {
    Path("flightserve/frontends/sql/tickets.py"),
    Path("flightserve/frontends/kserve/statistics.py"),
    Path("flightserve/identity/issuing.py"),
    Path("flightserve/tracing/otlp.py"),
    Path("flightserve/frontends/certificates.py"),
    Path("flightserve/control/cluster.py"),
}
UNTOLD = re.compile(r"threading\.(Thread|Timer)\(|create_task\(|ensure_future\(")
MACHINE = re.compile(
    r"(?<![\w.])/(?:home|root|work|Users|opt)/\w|--(?:extra-)?index[-]url\b|--find[-]links\b|[/]simple\b"
)


@functools.cache
def files() -> tuple[Path, ...]:
    """Every file of the project, as paths from its root."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    paths = (Path(name) for name in listed.splitlines())
    return tuple(p for p in paths if (ROOT / p).is_file() and not fnmatch.fnmatch(p.name, GENERATED))


def modules(*folders: str) -> list[Path]:
    """The Python files below the folders."""
    return [p for p in files() if p.suffix == ".py" and p.parts[0] in folders]


@functools.cache
def text(path: Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8", errors="replace")


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(text(path), str(path))


@functools.cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """The whole tree. Ten checks look at it, and to walk it takes longer than to look."""
    return tuple(ast.walk(tree(path)))


@pytest.fixture(scope="module", autouse=True)
def forgotten() -> Iterator[None]:
    """A million nodes are nothing to keep while other tests run, and nothing to look through for circles, of which
    they have none, while more of them are made."""
    gc.disable()
    yield
    gc.enable()
    for kept in (text, tree, nodes):
        kept.cache_clear()


def excused(path: Path, line: int) -> bool:
    return EXCUSE in text(path).splitlines()[line - 1]


EVERY_PYTHON = ("flightserve", "tests", "examples", "benchmarks")


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Dotted names that a module imports, with the line; `from a import b` gives both a and a.b."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def breaches_of_length(path: Path) -> list[str]:
    found = []
    if (lines := len(text(path).splitlines())) > MODULE_LINES_MAX:
        found.append(f"{path}: {lines} lines; at most {MODULE_LINES_MAX}")
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                found.append(f"{path}:{node.lineno}: {node.name} has {lines} lines; at most {FUNCTION_LINES_MAX}")
    return found


def breaches_of_quarantine(path: Path) -> list[str]:
    return [
        f"{path}:{line}: {name} is imported outside {', '.join(allowed)}"
        for name, line in imports(path)
        for library, allowed in QUARANTINE.items()
        if (name == library or name.startswith(library + "."))
        and not any(fnmatch.fnmatch(str(path), pattern) for pattern in allowed)
    ]


def swallows(path: Path) -> list[str]:
    """Handlers that catch everything and do nothing."""
    found = []
    for node in nodes(path):
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            idle = all(isinstance(s, ast.Pass | ast.Continue) or ast.unparse(s) == "..." for s in node.body)
            if broad and idle and not excused(path, node.lineno):
                found.append(f"{path}:{node.lineno}: catches everything and says nothing")
    return found


def sleeps(path: Path) -> list[str]:
    """Calls of any `sleep`, but for `sleep(0)`, which only yields."""
    found = []
    for node in nodes(path):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "sleep":
            yields = bool(node.args) and ast.unparse(node.args[0]) == "0"
            if not yields and not excused(path, node.lineno):
                found.append(f"{path}:{node.lineno}: sleeps; wait for a condition (tests.support.eventually)")
    return found


def forbidden_names(path: Path) -> list[str]:
    found = []
    for node in nodes(path):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+", node.name)}
            if (bad := words & FORBIDDEN_WORDS) and not excused(path, node.lineno):
                found.append(f"{path}:{node.lineno}: {node.name} uses {', '.join(bad)}; see the glossary")
    return found


def names_of_several_classes(paths: list[Path]) -> list[str]:
    """Names that more than one class has: whoever looks for one finds the other."""
    homes: dict[str, list[str]] = {}
    for path in paths:
        for node in nodes(path):
            if isinstance(node, ast.ClassDef) and not excused(path, node.lineno):
                homes.setdefault(node.name, []).append(f"{path}:{node.lineno}")
    return [f"{name}: {', '.join(places)}" for name, places in homes.items() if len(places) > 1]


def environment_reads(path: Path) -> list[str]:
    return [
        f"{path}:{node.lineno}: reads the environment"
        for node in nodes(path)
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv") and not excused(path, node.lineno)
    ]


def undocumented(path: Path) -> list[str]:
    module = tree(path)
    if not module.body:
        return []
    found = [] if ast.get_docstring(module) else [f"{path}: no module docstring"]
    for node in module.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            public = not node.name.startswith("_")
            overload = any(ast.unparse(decorator).endswith("overload") for decorator in node.decorator_list)
            if public and not overload and not ast.get_docstring(node):
                found.append(f"{path}:{node.lineno}: {node.name} has no docstring")
    return found


def matching_lines(path: Path, pattern: re.Pattern[str], what: str) -> list[str]:
    return [
        f"{path}:{number}: {what}: {line.strip()[:80]}"
        for number, line in enumerate(text(path).splitlines(), 1)
        if pattern.search(line) and EXCUSE not in line
    ]


def gather(paths: list[Path], check: Callable[[Path], list[str]]) -> str:
    return "\n".join(line for path in paths for line in check(path))


def test_modules_and_functions_are_short() -> None:
    assert gather(modules(*EVERY_PYTHON), breaches_of_length) == ""


def test_no_deadline_moves_when_the_wall_clock_is_set() -> None:
    """All time but the date on a ticket is the monotonic clock's."""

    def breaches(path: Path) -> list[str]:
        return matching_lines(path, WALL_CLOCK, "asks the wall clock")

    asking = [path for path in modules("flightserve") if path not in MAY_ASK_THE_DATE]
    assert gather(asking, breaches) == ""
    assert all(breaches(path) for path in MAY_ASK_THE_DATE)


def test_each_library_stays_in_its_room() -> None:
    assert gather(modules("flightserve"), breaches_of_quarantine) == ""


def test_nothing_is_swallowed() -> None:
    assert gather(modules(*EVERY_PYTHON), swallows) == ""


def test_tests_wait_for_conditions() -> None:
    assert gather(modules("tests"), sleeps) == ""


def test_names_are_the_glossary_s() -> None:
    assert gather(modules("flightserve"), forbidden_names) == ""


def test_each_class_has_a_name_of_its_own() -> None:
    assert names_of_several_classes(modules("flightserve")) == []


def test_the_environment_is_read_at_the_edge_only() -> None:
    edge = ("flightserve/cli/*", "flightserve/__main__.py", "flightserve/control/*")
    inside = [p for p in modules("flightserve") if not any(fnmatch.fnmatch(str(p), e) for e in edge)]
    assert gather(inside, environment_reads) == ""


def untold(path: Path) -> list[str]:
    """Threads, loops' turns and coroutines of ours whose end nobody would hear of."""
    return matching_lines(
        path, UNTOLD, "starts what nobody hears of when it ends (flightserve.threads, flightserve.loops)"
    )


def test_the_end_of_every_thread_and_background_coroutine_is_told() -> None:
    homes = ("flightserve/threads.py", "flightserve/loops.py", "flightserve/testing/*")
    others = [p for p in modules("flightserve") if not any(fnmatch.fnmatch(str(p), home) for home in homes)]
    assert gather(others, untold) == ""


def test_public_things_are_documented() -> None:
    assert gather(modules("flightserve", "examples"), undocumented) == ""


def test_nothing_is_unfinished() -> None:
    # Bytes of a picture may say anything.
    texts = [path for path in files() if path.suffix != ".png"]
    assert gather(texts, lambda p: matching_lines(p, UNFINISHED, "unfinished")) == ""


def test_no_file_names_a_machine() -> None:
    assert gather(list(files()), lambda p: matching_lines(p, MACHINE, "a path or index of one machine")) == ""


def test_suppressions_name_what_they_suppress() -> None:
    bare = re.compile(r"type: ignore(?!\[)|noqa(?!: [A-Z])")
    paths = [p for p in modules(*EVERY_PYTHON) if p != Path("tests/test_tidy.py")]
    assert gather(paths, lambda p: matching_lines(p, bare, "suppresses everything")) == ""


def test_the_public_names_are_few() -> None:
    init = tree(Path("flightserve/__init__.py"))
    assigned = [n for n in init.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"]
    assert len(assigned) == 1, "flightserve/__init__.py says in __all__ what is public"
    names = ast.literal_eval(assigned[0].value)
    assert 0 < len(names) <= EXPORTS_MAX


@pytest.mark.parametrize(
    ("check", "source"),
    [
        (breaches_of_length, "def f():\n" + "    x = 1\n" * FUNCTION_LINES_MAX),
        (breaches_of_length, "x = 1\n" * (MODULE_LINES_MAX + 1)),
        (breaches_of_quarantine, "from pyarrow import flight\n"),
        (breaches_of_quarantine, "import mmap\n"),
        (swallows, "try:\n    f()\nexcept Exception:\n    pass\n"),
        (sleeps, "import time\ntime.sleep(1)\n"),
        (forbidden_names, "class JobQueue: ...\n"),
        (lambda p: names_of_several_classes([p]), "class A: ...\nclass B:\n    class A: ...\n"),
        (environment_reads, "import os\nos.environ['A']\n"),
        (untold, "threading.Thread(target=f).start()\n"),
        (undocumented, "'''Doc.'''\ndef f(): ...\n"),
        (lambda p: matching_lines(p, UNFINISHED, ""), "# TO" + "DO later\n"),
        (lambda p: matching_lines(p, MACHINE, ""), "x = '/ho" + "me/me'\n"),
    ],
)
def test_the_checks_find_breaches(
    check: Callable[[Path], list[str]], source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that finds nothing in anything would let everything pass."""
    path = tmp_path / "sample.py"
    path.write_text(source)
    assert gather([path], check) != ""


def test_lengths_at_the_bound_pass(tmp_path: Path) -> None:
    path = tmp_path / "sample.py"
    path.write_text("def f():\n" + "    x = 1\n" * (FUNCTION_LINES_MAX - 1))
    assert breaches_of_length(path) == []

"""The libraries that are used by names which are no promise of theirs, and the versions that this was tried with.

pyproject.toml has the same bounds; an installer may be told to ignore them, and one package's upgrade may bring
another's. Such a library would fail in the middle of a request, or run differently in silence, so that versions are
looked at before anything starts.

| library | what is used of it |
|---|---|
| duckdb | every function was gone through for what it may read and do (`sql.statements.policy`); its parser's trees |
| grpcio | `grpc._cython.cygrpc.AioServer`, whose calls are accepted ahead (`frontends.grpc.accepting`) |
| protobuf | the stubs, made by an old protoc: a later major version may refuse them (`proto.generate`) |
| pyarrow | the layout of IPC messages, which are checked before they are read (`fabric.memory.decode`) |
| ray | `ray._private`, `ray._raylet`: addresses, tokens, logs and the raylet's process (`control`) |
| uvicorn | `HttpToolsProtocol`'s and `Server`'s own attributes and methods (`frontends.http.protocol`, `.server`) |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Final

from flightserve.errors import ConfigError

# From this version on, and before that one.
SUPPORTED: Final[Mapping[str, tuple[str, str]]] = {
    "duckdb": ("2.0", "2.1"),
    "grpcio": ("1.85", "1.86"),
    "protobuf": ("5.27.2", "8"),
    "pyarrow": ("25", "27"),
    "ray": ("2.60", "2.61"),
    "uvicorn": ("0.54", "0.55"),
}
_RELEASE: Final = re.compile(r"\d+(?:\.\d+)*")


def check_versions(installed: Callable[[str], str] = metadata.version) -> None:
    """Raises ConfigError that names every library of another version, and what to install."""
    wrong = [text for name, bounds in SUPPORTED.items() if (text := _complaint(name, bounds, installed))]
    if wrong:
        wanted = " ".join(f"'{name}>={least},<{end}'" for name, (least, end) in SUPPORTED.items())
        raise ConfigError(f"{'; '.join(wrong)}. Others were not tried; install what was: pip install {wanted}")


def _complaint(name: str, bounds: tuple[str, str], installed: Callable[[str], str]) -> str:
    least, end = bounds
    try:
        version = installed(name)
    except metadata.PackageNotFoundError:
        return f"{name} is not installed; flightserve needs {least} up to, but not including, {end}"
    if _release(least) <= _release(version) < _release(end):
        return ""
    return f"{name} {version} is installed; flightserve supports {least} up to, but not including, {end}"


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version, without what says that it is early, late or somebody's own."""
    found = _RELEASE.match(version)
    return tuple(int(number) for number in found[0].split(".")) if found else ()

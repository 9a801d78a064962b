"""The user's modules as a deployment was made with them, carried to its replicas.

Classes are pickled by reference, so a replica imports their modules. If it did so from the disk, one that is replaced
an hour later would run whatever lies there then, under the version of before. So the sources of the user's modules
that the deploying process has loaded travel with the deployment, and in its replicas an importer of these comes
before all others. What is not among them (installed packages, compiled modules, modules that are imported only
later) is found as always, and so are files that lie beside them (`importlib.resources`, `pkgutil.get_data`).
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.readers
import importlib.resources.abc
import importlib.util
import linecache
import os
import site
import sys
import sysconfig
import traceback
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final

from flightserve.errors import ConfigError

# Where flightserve itself lies, by the path that its modules are known by: that may be a link.
_OWN: Final = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class ModuleSource:
    """One module: its full name, where it was read, its packed text, and whether it is a package."""

    name: str
    path: str
    packed: bytes
    package: bool


def read_modules() -> tuple[ModuleSource, ...]:
    """The user's modules of this process, by name: those with a source file that does not lie where Python, its
    packages or flightserve are installed. As the files are now."""
    found = []
    for name, module in sorted(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        if spec is None or spec.name != name or not spec.has_location or not str(spec.origin).endswith(".py"):
            continue
        path = os.path.abspath(spec.origin)
        if _is_installed(path):
            continue
        try:
            with open(path, "rb") as file:
                text = file.read()
        except OSError:
            continue
        package = spec.submodule_search_locations is not None
        found.append(ModuleSource(name, path, zlib.compress(text), package))
    return tuple(found)


def place_of(error: BaseException) -> str:
    """Where in the user's own files an error came about: `pricing.py, line 7`, the innermost of these; "" where it
    came by none."""
    if isinstance(error, SyntaxError) and error.filename and not _is_installed(error.filename):
        return f"{_shown(error.filename)}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if not frame.filename.startswith("<") and not _is_installed(frame.filename)]
    return f"{_shown(ours[-1].filename)}, line {ours[-1].lineno}" if ours else ""


def _is_installed(path: str) -> bool:
    path = os.path.abspath(path)
    return path.startswith(_installed()) or "site-packages" in path or "dist-packages" in path


def _shown(path: str) -> str:
    """As one would write it here."""
    path = os.path.abspath(path)
    return os.path.relpath(path) if path.startswith(os.path.join(os.getcwd(), "")) else path


@functools.cache
def _installed() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    places = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    places += [site.getusersitepackages(), str(_OWN)]
    return tuple(os.path.join(os.path.abspath(place), "") for place in places)


class _Importer(importlib.abc.MetaPathFinder, importlib.abc.ExecutionLoader, importlib.abc.ResourceLoader):
    """Finds and loads modules among the sources."""

    def __init__(self, sources: Iterable[ModuleSource]) -> None:
        self._sources = {source.name: source for source in sources}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The module's spec, None for one that is not ours."""
        source = self._sources.get(fullname)
        if source is None:
            return None
        # With its directory, so that what is not among the sources is found beside it.
        places = [os.path.dirname(source.path)] if source.package else None
        return importlib.util.spec_from_file_location(
            fullname, source.path, loader=self, submodule_search_locations=places
        )

    def exec_module(self, module: ModuleType) -> None:
        """Run it, and let tracebacks show this text and not what the file says by then."""
        source = self._source(module.__name__)
        lines = self.get_source(source.name).splitlines(keepends=True)
        # Without a time of modification, the entry is never compared with the file.
        linecache.cache[source.path] = (len(lines), None, lines, source.path)
        super().exec_module(module)

    def get_source(self, fullname: str) -> str:
        """The module's text."""
        return importlib.util.decode_source(zlib.decompress(self._source(fullname).packed))

    def get_filename(self, fullname: str) -> str:
        """Where it was read in the deploying process."""
        return self._source(fullname).path

    def is_package(self, fullname: str) -> bool:
        """True for a package."""
        return self._source(fullname).package

    def get_data(self, path: str | bytes) -> bytes:
        """A file that lies beside a module, as it is on the disk now. Raises OSError."""
        with open(path, "rb") as file:
            return file.read()

    def get_resource_reader(self, fullname: str) -> importlib.resources.abc.ResourceReader | None:
        """What `importlib.resources` reads a package's files with: those on the disk, beside its module."""
        source = self._source(fullname)
        if not source.package:
            return None
        loader = importlib.machinery.SourceFileLoader(fullname, source.path)
        return importlib.readers.FileReader(loader)

    def _source(self, fullname: str) -> ModuleSource:
        try:
            return self._sources[fullname]
        except KeyError as error:
            raise ImportError(f"{fullname} did not come with the deployment") from error


def install(sources: Sequence[ModuleSource]) -> None:
    """From now on these modules are imported from here. What this process has already imported of them, which may be
    of another version, is forgotten."""
    sys.meta_path.insert(0, _Importer(sources))
    for source in sources:
        sys.modules.pop(source.name, None)


def working_folder() -> str:
    """The current folder, where replicas import from. Raises ConfigError where there is none any more, or where Ray
    cannot be told of it."""
    try:
        folder = os.getcwd()
        folder.encode()
    except OSError as error:
        raise ConfigError(f"the current folder is gone ({error.strerror}); change to one that is there") from error
    except UnicodeEncodeError as error:
        raise ConfigError("the current folder's path is no UTF-8, and Ray takes no other; rename the folder") from error
    return folder

"""The user's modules travel with a deployment: what is imported later is what was loaded then."""

from __future__ import annotations

import importlib
import importlib.resources
import inspect
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import flightserve
from flightserve.control.sources import ModuleSource, install, read_modules


@pytest.fixture(autouse=True)
def imports() -> Iterator[None]:
    """What a test imports, and how, ends with it."""
    meta_path, modules = list(sys.meta_path), dict(sys.modules)
    yield
    sys.meta_path[:] = meta_path
    for name in sys.modules.keys() - modules.keys():
        del sys.modules[name]
    sys.modules.update(modules)


def _ours(directory: Path) -> list[ModuleSource]:
    return [source for source in read_modules() if source.path.startswith(str(directory))]


def test_what_was_loaded_is_imported_whatever_lies_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "carried").mkdir()
    (tmp_path / "carried" / "__init__.py").write_text("from carried.inner import VALUE\n")
    (tmp_path / "carried" / "inner.py").write_text("# \N{LATIN SMALL LETTER E WITH ACUTE}\nVALUE = 1\n")
    assert importlib.import_module("carried").VALUE == 1
    sources = _ours(tmp_path)
    assert [(source.name, source.package) for source in sources] == [("carried", True), ("carried.inner", False)]

    (tmp_path / "carried" / "inner.py").write_text("VALUE = 2\n")
    (tmp_path / "carried" / "later.py").write_text("VALUE = 3\n")
    install(sources)
    again = importlib.import_module("carried")
    assert again.VALUE == 1
    assert again.__file__ == str(tmp_path / "carried" / "__init__.py")
    assert "VALUE = 1" in inspect.getsource(sys.modules["carried.inner"])
    # What was not loaded then is found as always, beside what was.
    assert importlib.import_module("carried.later").VALUE == 3


def test_nothing_that_is_installed_travels() -> None:
    names = {source.name for source in read_modules()}
    assert __name__ in names
    assert not {name for name in names if name.partition(".")[0] in ("flightserve", "pyarrow", "pytest", "json")}


def test_nor_does_flightserve_by_way_of_a_link(tmp_path: Path) -> None:
    (tmp_path / "flightserve").symlink_to(Path(flightserve.__path__[0]).resolve())
    asked = "import flightserve.control.sources as s; print(s.__file__, [each.name for each in s.read_modules()])"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-c", asked], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout == f"{tmp_path}/flightserve/control/sources.py []\n"


def test_a_module_whose_file_is_gone_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "short_lived.py").write_text("")
    importlib.import_module("short_lived")
    (tmp_path / "short_lived.py").unlink()
    assert _ours(tmp_path) == []


def test_files_beside_a_package_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "beside" / "inner").mkdir(parents=True)
    (tmp_path / "beside" / "__init__.py").write_text("")
    (tmp_path / "beside" / "alone.py").write_text("")
    (tmp_path / "beside" / "words.txt").write_text("apple")
    (tmp_path / "beside" / "inner" / "deep.bin").write_bytes(b"\0pear")
    importlib.import_module("beside.alone")
    install(_ours(tmp_path))
    importlib.import_module("beside.alone")
    files = importlib.resources.files("beside")
    assert files.joinpath("words.txt").read_text() == "apple"
    assert files.joinpath("inner", "deep.bin").read_bytes() == b"\0pear"
    with importlib.resources.as_file(files.joinpath("words.txt")) as path:
        assert path == tmp_path / "beside" / "words.txt"
    assert pkgutil.get_data("beside", "words.txt") == b"apple"
    assert pkgutil.get_data("beside.alone", "words.txt") == b"apple"
    with pytest.raises(FileNotFoundError):
        pkgutil.get_data("beside", "none.txt")

"""`module:app` as the app that it names, or one line that says why it is none and what to write instead."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final, NoReturn

from flightserve.declare import describe_value
from flightserve.errors import ConfigError, FlightserveError, did_you_mean
from flightserve.wire.log_lines import shorten

if TYPE_CHECKING:
    from flightserve.app import App


# What every replica imports after it has taken on the folder of whoever serves, and a first app may well be called.
HIDDEN: Final = ("flightserve", "ray", "pyarrow", "duckdb", "numpy", "pandas", "polars", "grpc", "zmq", "uvicorn")
_SAID_CHARS_MAX: Final = 4096


class NotLoaded(FlightserveError):
    """The app's module raised while it was imported. `detail` is the traceback."""

    code = 3

    def __init__(self, message: str, detail: str) -> None:
        super().__init__(message)
        self.detail = detail


def load_app(target: str) -> App:
    """The app named by `module:attribute`; the current directory is importable. Raises ConfigError where there is no
    such app, or its module raises one, and NotLoaded, naming the line, for whatever else its module raises."""
    from flightserve.app import App

    module, separator, attribute = target.partition(":")
    if not (module and separator and attribute) or not _is_dotted(module):
        raise ConfigError(f"{target!r} is not module:app; {_instead(target)}")
    _check_folder()
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    imported = _imported(module)
    try:
        app = getattr(imported, attribute)
    except AttributeError as error:
        raise ConfigError(f"module {module} has no {attribute!r}{_apps(module, imported, attribute)}") from error
    if not isinstance(app, App):
        raise ConfigError(
            f"{target} is {describe_value(app)}; it must be a flightserve.App{_apps(module, imported, '')}"
        )
    return app


def _check_folder() -> None:
    """Raises ConfigError for a file that replicas, where this folder comes first, would import instead of a library."""
    for name in HIDDEN:
        if os.path.exists(f"{name}.py"):
            raise ConfigError(f"{name}.py in {os.getcwd()} hides the package {name} from replicas; rename the file")


def _is_dotted(module: str) -> bool:
    return all(part.isidentifier() for part in module.split(".")) and not module.endswith(".py")


def _instead(target: str) -> str:
    """What to write for a path, or for a module alone."""
    path, _, attribute = target.partition(":")
    if path.endswith(".py") or os.sep in path:
        path = os.path.relpath(path).removesuffix(".py")
    module = path.replace(os.sep, ".")
    if not _is_dotted(module):
        return "e.g. pricing:app for the app in pricing.py of this folder"
    return f"write {module}:{attribute or 'app'} for the {attribute or 'app'} in {path.replace('.', os.sep)}.py"


def _imported(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            hint = did_you_mean(error.name, list(_modules_beside(module, error.name)))
            missing = f"there is no module {error.name!r} in {os.getcwd()} or on sys.path{hint}"
            raise ConfigError(missing) from error
        _refuse(module, error, f"there is no module {error.name!r}; install the package that has it into {sys.prefix}")
    except ConfigError as error:
        raise ConfigError(f"{_place(module, error)}: {error.message}") from error
    except AttributeError as error:
        if error.name == "bind" and inspect.isclass(error.obj):
            name = error.obj.__name__
            _refuse(
                module, error, f"{name} has no bind(): write @fs.deployment above the class, or fs.bind({name}, ...)"
            )
        _refuse(module, error, _explain(error))
    except KeyboardInterrupt:
        raise
    except SystemExit as error:
        advice = 'what is for a program alone goes below if __name__ == "__main__":'
        _refuse(module, error, f"{_explain(error)}; the module is imported, and {advice}")
    except BaseException as error:  # whatever a stranger's module raises
        _refuse(module, error, _explain(error))


def _refuse(module: str, error: BaseException, said: str) -> NoReturn:
    raise NotLoaded(f"{_place(module, error)}: {said}", traceback.format_exc()) from error


def _place(module: str, error: BaseException) -> str:
    from flightserve.control.sources import place_of

    return place_of(error) or module


def _explain(error: BaseException) -> str:
    try:
        text = error.msg if isinstance(error, SyntaxError) else str(error)
    except Exception:  # a stranger's class
        text = ""
    return shorten(f"{type(error).__name__}: {text}" if text else type(error).__name__, _SAID_CHARS_MAX)


def _modules_beside(module: str, missing: str) -> Iterator[str]:
    """What could be imported in the place of the part that is missing."""
    parent = missing.rpartition(".")[0]
    folder = Path(os.getcwd(), *parent.split("."))
    for each in folder.iterdir() if folder.is_dir() else ():
        if each.suffix == ".py" or (each.is_dir() and (each / "__init__.py").exists()):
            yield f"{parent}.{each.stem}" if parent else each.stem


def _apps(module: str, imported: ModuleType, attribute: str) -> str:
    """The apps that the module has, for who named something else in it."""
    from flightserve.app import App

    apps = [name for name, value in vars(imported).items() if isinstance(value, App)]
    if apps:
        return f"; the module's apps: {', '.join(f'{module}:{name}' for name in apps)}"
    return did_you_mean(attribute, list(vars(imported))) or "; write there: app = fs.App(...)"

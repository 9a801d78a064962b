"""What hostile bytes are sent to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.served.entrance import Entrance


class Written:
    """What an app writes to files below these folders, looked at for pieces of secrets."""

    def __init__(self, secrets: Sequence[str], *folders: Path) -> None:
        self._secrets = [each.encode() for each in secrets]
        self._overlap = max(map(len, self._secrets)) - 1
        self._folders = folders
        self._read: dict[Path, int] = {}

    def new(self) -> Iterator[tuple[str, str]]:
        """The file and the place of each that was written since last asked."""
        for path in (path for folder in self._folders for path in folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                data = self._tail(path)
                for secret in self._secrets:
                    if (at := data.find(secret)) >= 0:
                        yield path.name, data[max(0, at - 500) : at + 200].decode(errors="replace")

    def _tail(self, path: Path) -> bytes:
        start = self._read.get(path, 0)
        try:
            with path.open("rb") as file:
                file.seek(max(0, start - self._overlap))
                data = file.read()
                self._read[path] = file.tell()
        except OSError:  # gone by now
            return b""
        return data


@dataclass(frozen=True)
class Target:
    """An app that serves `tests.served.app`. `errors` is what it wrote to standard error so far. `entrance` and
    `written` are there where it asks who comes."""

    addresses: Mapping[str, str]
    app_id: str
    errors: Callable[[], str]
    entrance: Entrance | None = None
    written: Written | None = None

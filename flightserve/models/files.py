"""A model's file: read once, when the app is planned, and carried to the replicas.

A file that is written again must not change what runs: a replica that takes a dead one's place would serve another
model than its neighbours. So a small one travels with the deployment. A large one, or one whose weights lie in files
beside it, is read where the replicas are, and has to be the one that was deployed, before it is loaded and behind.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from flightserve.errors import ConfigError

# What is larger is read from the file by each replica. Of all deployments together 256 MiB are carried.
CARRIED_BYTES_MAX: Final = 32 << 20


class ModelFile:
    """The file at a path. `read` is for whoever plans, `open` for all. `beside` finds in it the names of others that
    belong to it."""

    def __init__(self, path: str, beside: Callable[[BinaryIO], Sequence[str]] | None = None) -> None:
        self.path = path
        self.digest = ""
        self._beside = beside
        self._content: bytes | None = None

    def __repr__(self) -> str:
        return f"<ModelFile {self.name}>"

    @property
    def name(self) -> str:
        """Without its folder: what may be told to strangers."""
        return Path(self.path).name

    def read(self, carried_bytes_max: int = CARRIED_BYTES_MAX) -> str:
        """Take the file as it is now: its digest. Raises ConfigError where it cannot be read."""
        with self._opened() as file:
            beside = self._names_beside(file)
            self.digest = self._stamp(file, beside)
            small = os.fstat(file.fileno()).st_size <= carried_bytes_max
            file.seek(0)
            self._content = file.read() if small and not beside else None
        return self.digest

    def leave(self) -> None:
        """Do not carry it: what reads it needs what lies beside it."""
        self._content = None

    def open(self) -> BinaryIO:
        """What was read. Raises ConfigError where the file is another one by now."""
        if self._content is not None:
            return io.BytesIO(self._content)
        file = self._opened()
        if self.digest:
            if self._stamp(file, self._names_beside(file)) != self.digest:
                file.close()
                raise ConfigError(f"{self.path} is not the file any more that was deployed; deploy it again")
            file.seek(0)
        return file

    def check(self) -> None:
        """Raises ConfigError where what was just loaded may be another file's."""
        self.content()

    def content(self) -> bytes | None:
        """The bytes where they are carried, None where the file is to be read by its path."""
        if self._content is None:
            self.open().close()
        return self._content

    def _names_beside(self, file: BinaryIO) -> Sequence[str]:
        if self._beside is None:
            return ()
        file.seek(0)
        return self._beside(file)

    def _stamp(self, file: io.BufferedReader, beside: Sequence[str]) -> str:
        """The digest of the file and of those beside it."""
        file.seek(0)
        own = _digest(file)
        if not beside:
            return own
        folder = Path(self.path).parent
        others = [(name, _digest_of(folder / name)) for name in sorted(beside)]
        return hashlib.blake2b(repr((own, others)).encode(), digest_size=16).hexdigest()

    def _opened(self) -> io.BufferedReader:
        try:
            return open(self.path, "rb")
        except FileNotFoundError as error:
            where = "" if Path(self.path).is_absolute() else f" in {Path.cwd()}"
            raise ConfigError(f"there is no file {self.path}{where}") from error
        except IsADirectoryError as error:
            raise ConfigError(f"{self.path} is a folder; name the model's file") from error
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _digest_of(path: Path) -> str:
    """ "" for one that is not there: whoever loads the model says so."""
    try:
        with open(path, "rb") as file:
            return _digest(file)
    except (OSError, ValueError):
        return ""


def _digest(file: io.BufferedReader) -> str:
    return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()

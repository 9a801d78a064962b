"""A model's file: read once, when the app is planned, and carried to the replicas.

A file that is written again must not change what runs: a replica that takes a dead one's place would serve another
model than its neighbours. So a small one travels with the deployment. A large one is read where the replicas are, and
has to be the one that was deployed.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import BinaryIO, Final

from flightserve.errors import ConfigError

# What is larger is read from the file by each replica. Of all deployments together 256 MiB are carried.
CARRIED_BYTES_MAX: Final = 32 << 20


class ModelFile:
    """The file at a path. `read` is for whoever plans, `open` for all."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.digest = ""
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
            self.digest = _digest(file)
            small = file.tell() <= carried_bytes_max
            file.seek(0)
            self._content = file.read() if small else None
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
            if _digest(file) != self.digest:
                file.close()
                raise ConfigError(f"{self.path} is not the file any more that was deployed; deploy it again")
            file.seek(0)
        return file

    def content(self) -> bytes | None:
        """The bytes where they are carried, None where the file is to be read by its path."""
        if self._content is None:
            self.open().close()
        return self._content

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


def _digest(file: io.BufferedReader) -> str:
    return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()

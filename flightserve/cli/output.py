"""Standard output is for programs: what they read is all that comes there."""

from __future__ import annotations

import os
import sys
from typing import TextIO


class StdoutForPrograms:
    """Inside, descriptor 1 is standard error, so that nothing that Ray or a user prints mixes with our line;
    the real standard output is what `with` gives."""

    def __enter__(self) -> TextIO:
        sys.stdout.flush()
        self._kept = os.dup(1)
        os.dup2(2, 1)
        self._out = os.fdopen(os.dup(self._kept), "w")
        return self._out

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        sys.stdout.flush()
        try:
            self._out.close()
        except OSError:
            # What cannot be written was said already where that ended the block.
            if kind is None:
                raise
        finally:
            os.dup2(self._kept, 1)
            os.close(self._kept)

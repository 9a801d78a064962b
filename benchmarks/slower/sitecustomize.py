"""Makes this process's Python slower, evenly: each call and each return takes some loops longer. A development tool:
`benchmarks.slowing` puts this folder into PYTHONPATH, and says how many loops in the environment."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from itertools import repeat
from types import FrameType
from typing import Any, Final

# Not one of `FLIGHTSERVE_...`, which the command takes for settings.
LOOPS: Final = "BENCHMARKS_LOOPS"


def profile(loops: int) -> Callable[[FrameType, str, Any], None]:
    """What takes so many loops each time that it is called."""

    def least(frame: FrameType, event: str, argument: Any) -> None:
        pass

    def waste(frame: FrameType, event: str, argument: Any) -> None:
        for _ in repeat(None, loops):
            pass

    return waste if loops else least


def slow_down(loops: int) -> None:
    """This thread's calls and returns, of C functions too, and those of threads that begin later."""
    sys.setprofile(profile(loops))
    threading.setprofile(profile(loops))


if LOOPS in os.environ:
    slow_down(int(os.environ[LOOPS]))

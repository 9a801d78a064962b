"""A fault to be planted in any Python process: on its path, this ends a thread when a file says which.

The file is named after the process's id, lies in the folder that the environment names, and holds the thread's name; it
is removed when the thread has been told.
"""

import ctypes
import os
import threading
from pathlib import Path

FOLDER = "TEST_FLIGHTSERVE_PLANTED"
EVERY_S = 0.02


def _watch(wish: Path) -> None:
    pause = threading.Event()
    while True:
        pause.wait(EVERY_S)
        if not wish.exists():
            continue
        name = wish.read_text()
        for thread in threading.enumerate():
            if thread.name == name and thread.ident is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
                wish.unlink()


if FOLDER in os.environ:
    planted = Path(os.environ[FOLDER]) / str(os.getpid())
    threading.Thread(target=_watch, args=(planted,), name="planted", daemon=True).start()

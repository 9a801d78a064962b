"""Has the fork server fork a process: run as `python -I -S fork_client.py SOCKET [FLAG]... SCRIPT [ARGUMENT]...`.

Ray runs this in the place of `python [FLAG]... SCRIPT [ARGUMENT]...`, which would import everything anew. Where the
fork server is gone, or does not fork that, this becomes it. It imports nothing but the standard library, so that it
costs little.
"""

from __future__ import annotations

import json
import os
import socket
import sys

FD_COUNT = 3
SIZE_BYTES = 4
ANSWER_BYTES_MAX = 16


def main() -> None:
    """End when it is forked, or become it."""
    command = sys.argv[2:]
    if not forked(sys.argv[1], command):
        os.execv(sys.executable, [sys.executable, *command])


def forked(path: str, command: list[str]) -> bool:
    """Whether the fork server at that path did it. Without a time limit: a slow one would do it later, and there would
    be two."""
    wish = {"python": sys.executable, "command": command, "environment": dict(os.environ), "cwd": os.getcwd()}
    content = json.dumps(wish).encode()
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(path)
            socket.send_fds(sock, [len(content).to_bytes(SIZE_BYTES, "big")], range(FD_COUNT))
            sock.sendall(content)
            return bool(sock.recv(ANSWER_BYTES_MAX))
        except OSError:
            return False


if __name__ == "__main__":
    main()

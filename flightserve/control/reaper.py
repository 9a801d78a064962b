"""Removes what a launcher leaves when it is killed: run as `python -I -S reaper.py DIRECTORY APP_ID LAUNCHER_PID`.

Standard input is a pipe whose other end only the launcher holds; it closes when the launcher ends, however
that happens. The directory is the app's folder. Where Ray is the launcher's, its processes end with it, most of them at
once; this waits for all that carry the app's id in their environment, or have a file of the directory open for writing
(Ray's agents give themselves a title, which may be written over their environment), and kills those that outlive
`GRACE_S`. In another Ray, processes of the app drain and leave by themselves: it waits until none has a socket in the
directory, however long: on another node than the launcher's each that listens there has a reaper, and the first to end
is not the last. Then it deletes the directory. It imports nothing but the standard library, so that it costs little to
have it wait.
"""

import os
import shutil
import signal
import sys
import time

GRACE_S = 8.0
POLL_S = 0.1
GIVE_UP_S = 30.0
SELDOM_S = 1.0


def marked(marker: bytes, directory: str, launcher: int) -> list[int]:
    """Pids, except our own and the launcher's (Ray's log files stay open in it), with the marker in their
    environment or writing into the directory. Zombies do neither."""
    pids = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) not in (os.getpid(), launcher):
            try:
                with open(f"/proc/{entry}/environ", "rb") as file:
                    found = marker in file.read().split(b"\0")
                if found or writes_into(entry, directory):
                    pids.append(int(entry))
            except OSError:
                continue
    return pids


def writes_into(pid: str, directory: str) -> bool:
    """Whether the process has a file below the directory open for writing. Raises OSError when it is not ours or
    just ended."""
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            if os.readlink(f"/proc/{pid}/fd/{number}").startswith(f"{directory}/"):
                with open(f"/proc/{pid}/fdinfo/{number}") as file:
                    flags = next(line for line in file if line.startswith("flags:"))
                if int(flags.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY:
                    return True
        except OSError:  # the descriptor was closed while we looked
            continue
    return False


def listens_in(directory: str) -> bool:
    """Whether any process has a socket of the app there."""
    with open("/proc/net/unix", errors="replace") as file:
        return any(f" {directory}/@" in line for line in file)


def end(marker: bytes, directory: str, launcher: int) -> None:
    """Wait for the marked processes, then kill those that stay; then delete the directory."""
    start = time.monotonic()
    while True:
        waited_s = time.monotonic() - start
        pids = marked(marker, directory, launcher) if waited_s < GIVE_UP_S else []
        if not pids and not listens_in(directory):
            break
        if waited_s > GRACE_S:
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        time.sleep(POLL_S if waited_s < GIVE_UP_S else SELDOM_S)
    shutil.rmtree(directory, ignore_errors=True)


def main() -> None:
    """Wait for the launcher's end, then clean up after it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 1):
        pass
    directory, app_id, launcher = sys.argv[1:4]
    end(f"_FLIGHTSERVE_APP_ID={app_id}".encode(), directory, int(launcher))


if __name__ == "__main__":
    main()

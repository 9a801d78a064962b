"""A hostile peer of the data plane: the real router closes its connection, and nobody else notices.

The peer runs as our user, so it may connect; what it says is made to break a router or a replica that believes it.
"""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from flightserve.clock import monotonic_ns
from flightserve.errors import KINDS, Unavailable
from flightserve.fabric.memory.batches import stream_of
from flightserve.wire import frames
from tests.control.served import Served
from tests.frontends.rpc_support import batch_of
from tests.fuzz.hostile import HELLO, NBYTES, PEER_ID, SEGMENT, endpoint_of, hostile, memfd, versioned

NOBODY = 65_534
# In /proc/net/unix: it listens.
ACCEPTS = 1 << 16
# Set for each test by `probe`, to the version that runs.
PROBE = "Probe"


@pytest.fixture
def endpoint(system: Served) -> str:
    """The router's socket."""
    return endpoint_of(system.app_id, "router-0")


@pytest.fixture(autouse=True)
def probe(system: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data plane knows a deployment by name and version."""
    monkeypatch.setattr(sys.modules[__name__], "PROBE", versioned(system.addresses["http"], "Probe"))


def submit(
    offset: int = 0,
    length: int = 64,
    *,
    row: int = 0,
    rows: int = 1,
    segment: int = 1,
    owner: int = PEER_ID,
    key: int = 7,
) -> frames.Submit:
    """One request for Probe.identity whose rows are said to lie there."""
    part = frames.Part(key, row, rows, monotonic_ns() + 10_000_000_000)
    return frames.Submit(PROBE, "identity", frames.Region(owner, segment, offset, length, 5), [part])


def test_segments_that_are_none(endpoint: str) -> None:
    read, write = os.pipe()
    bad = {
        "unsealed": memfd(seals=0),
        "may shrink": memfd(seals=fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL),
        "smaller than said": memfd(nbytes=NBYTES // 2),
        "empty": memfd(nbytes=0),
        "a pipe": read,
        "a device": os.open("/dev/zero", os.O_RDONLY),
    }
    for name, fd in bad.items():
        with hostile(endpoint) as peer:
            assert peer.send(SEGMENT, fds=[fd]).closed(), name
        os.close(fd)
    os.close(write)


def test_too_few_and_too_many_fds(endpoint: str) -> None:
    fd = memfd()
    with hostile(endpoint) as peer:
        assert peer.send(SEGMENT).closed(), "no fd"
    # 253 is the most that the kernel takes in one message; 254 is the sender's own error.
    for count in (2, 17, 253):
        with hostile(endpoint) as peer:
            assert peer.send(SEGMENT, fds=[fd] * count).closed(), count
    with hostile(endpoint) as peer, pytest.raises(OSError, match="Invalid argument"):
        peer.send(SEGMENT, fds=[fd] * 254)
    with hostile(endpoint) as peer:
        assert peer.send(HELLO, fds=[fd]).closed(), "an fd that no frame names"
    os.close(fd)


def test_more_segments_than_a_process_may_have(endpoint: str) -> None:
    fd = memfd()
    with hostile(endpoint) as peer:
        for number in range(1100):
            peer.send(frames.Segment(PEER_ID, number, NBYTES), fds=[fd])
        assert peer.closed()
    os.close(fd)


def test_regions_outside_of_their_segment(endpoint: str) -> None:
    fd = memfd()
    most = (1 << 64) - 1
    bad = [
        submit(NBYTES, 1), submit(NBYTES - 63), submit(-1), submit(0, 0), submit(64, -64), submit(1 << 62, 1 << 62),
        submit(most, most), submit(0, most), submit(segment=2),
        submit(row=most), submit(row=most, rows=most), submit(row=1, rows=(1 << 63) - 1), submit(rows=-1),
        submit(row=-1),
    ]  # fmt: skip
    for frame in bad:
        with hostile(endpoint) as peer:
            assert peer.send(SEGMENT, fds=[fd]).send(frame).closed(), frame
    os.close(fd)


def test_rows_of_another_process_that_were_never_given_here(endpoint: str) -> None:
    """They may have been passed on and be gone: an error of that request alone, and nobody's rows."""
    with hostile(endpoint) as peer:
        (outcome,) = peer.send(submit(owner=PEER_ID + 1)).outcomes(1)
    assert isinstance(outcome, frames.Outcome)
    assert KINDS[outcome.kind] is Unavailable


def test_frames_out_of_place(endpoint: str, system: Served) -> None:
    other = system.child("frontend-0").peer_id
    replica = system.child("replica-Probe-0").peer_id
    bad: dict[str, tuple[frames.Frame, ...]] = {
        "another version": (frames.Hello(99, PEER_ID, "frontend", True),),
        "greets twice": (HELLO, HELLO),
        "says it is the frontend": (frames.Hello(1, other, "frontend", True),),
        "says it is a replica": (frames.Hello(1, replica, "replica", False, "Probe", 2),),
        "fewer than no credits": (frames.Hello(1, PEER_ID, "replica", False, "Probe", -1),),
        "submits before it greets": (submit(),),
        "segment before it greets": (SEGMENT,),
        "submits nothing": (HELLO, frames.Submit(PROBE, "identity", frames.Region(PEER_ID, 1, 0, 64), [])),
        "gives back what it does not hold": (HELLO, frames.Release([(replica, 1, 0)])),
        "drops another's segment": (HELLO, frames.SegmentGone(replica, 1)),
        "answers": (HELLO, frames.Done(1, None, 0, True)),
        "fails": (HELLO, frames.Failed(1, 0, "no", True)),
        "executes": (HELLO, frames.Execute(1, "identity", [], [])),
        "drains": (HELLO, frames.Goodbye()),
        "answers for a replica": (frames.Hello(1, PEER_ID, "frontend", True, "Probe"), frames.Done(1, None, 0, True)),
    }
    for name, sent in bad.items():
        with hostile(endpoint, *sent) as peer:
            assert peer.closed(), name


def test_bytes_that_are_no_frames(endpoint: str) -> None:
    for data in (b"\xff\xff\xff\xff", b"\4\0\0\0nope", b"\1\0\0\0\xc0", b"GET / HTTP/1.1\r\n\r\n"):
        with hostile(endpoint) as peer:
            assert peer.send_bytes(data).closed(), data
    with hostile(endpoint) as peer:
        peer.send_bytes(frames.encode([submit()])[:9])


def test_rows_that_are_none_fail_alone(endpoint: str) -> None:
    """A segment as it must be, with something else in it: for the replica to find out."""
    good = bytes(stream_of([batch_of(1, 2, 3)]))
    fd = memfd(good)
    noise = memfd(os.urandom(NBYTES))
    with hostile(endpoint) as peer:
        peer.send(SEGMENT, fds=[fd]).send(frames.Segment(PEER_ID, 2, NBYTES), fds=[noise])
        sent = [
            submit(0, len(good), rows=3, key=1),
            submit(0, len(good), rows=4, key=2),
            submit(0, len(good), row=3, rows=1, key=3),
            submit(0, len(good), rows=1 << 40, key=4),
            submit(0, len(good) - 100, rows=3, key=5),
            submit(8, 512, rows=1, key=6),
            submit(0, NBYTES, segment=2, rows=1, key=7),
        ]
        ends = {}
        for frame in sent:
            (end,) = peer.send(frame).outcomes(1)
            key = end.request_id if isinstance(end, frames.Outcome) else end.items[0].request_id
            ends[key] = type(end)
        assert ends == {number: frames.Results if number == 1 else frames.Outcome for number in range(1, 8)}
    os.close(fd)
    os.close(noise)


def test_a_segment_that_goes_while_requests_in_it_wait(endpoint: str) -> None:
    good = bytes(stream_of([batch_of(1, 2, 3)]))
    fd = memfd(good)
    with hostile(endpoint) as peer:
        peer.send(SEGMENT, fds=[fd])
        peer.send(*(submit(0, len(good), rows=3, key=key) for key in range(50)), frames.SegmentGone(PEER_ID, 1))
        # Whether a request runs or fails depends on which comes first at a replica; each ends, and its sender alone
        # has the harm.
        ended = 0
        while ended < 50:
            ended += sum(len(end.items) if isinstance(end, frames.Results) else 1 for end in peer.outcomes(1))
    os.close(fd)


def test_a_peer_that_leaves_in_the_middle(endpoint: str) -> None:
    good = bytes(stream_of([batch_of(400)]))
    fd = memfd(good)
    with hostile(endpoint) as peer:
        peer.send(SEGMENT, fds=[fd])
        frame = submit(0, len(good), rows=1)
        frame.method = "slowly"
        peer.send(frame)
    os.close(fd)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user(endpoint: str) -> None:
    os.seteuid(NOBODY)
    try:
        with socket.socket(socket.AF_UNIX) as sock, pytest.raises(PermissionError):
            sock.connect(endpoint)
    finally:
        os.seteuid(0)


@pytest.fixture
def entered(system: Served) -> Iterator[Served]:
    """The folder for temporary files can be entered by all, as /tmp can."""
    mode = system.directory.stat().st_mode
    system.directory.chmod(0o755)
    yield system
    system.directory.chmod(mode)


def unix_sockets(system: Served) -> set[str]:
    """What the app's processes, Ray's own among them, listen at: paths, and abstract names with a leading @."""
    inodes = set()
    for pid in system.processes():
        with suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    inodes.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    found = set()
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and f"socket:[{fields[6]}]" in inodes and int(fields[3], 16) & ACCEPTS:
            found.add(fields[7])
    return found


# As another user: connects to what it is given, in bursts, with garbage, and says where it came through.
STRANGER = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for path in sys.argv[1:]:
    for attempt in range(200):
        s = socket.socket(socket.AF_UNIX); s.settimeout(5)
        try:
            s.connect("\\0" + path[1:] if path[0] == "@" else path)
            print("came to", path); s.sendall(b"\\xff" * 64); break
        except PermissionError: pass
        except OSError as error: print(path, error)
        s.close()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_no_other_user_comes_to_any_socket_of_an_app(entered: Served) -> None:
    system, paths = entered, unix_sockets(entered)
    names = [path.rpartition("/")[2] for path in paths]
    assert any("-router-0-" in name for name in names) and any(name.endswith("-supervisor") for name in names)
    assert {"raylet", "plasma_store"} <= set(names)
    stranger = [sys.executable, "-I", "-S", "-c", STRANGER, *sorted(paths)]
    before = system.errors()
    said = subprocess.run(stranger, capture_output=True, text=True, timeout=60, check=True).stdout
    assert said == ""
    assert system.errors() == before
    assert httpx.get(f"{system.addresses['http']}/readyz", trust_env=False).status_code == 200


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_no_other_user_comes_to_the_files_of_an_app(entered: Served) -> None:
    """Where it logs, spills and keeps its sockets: every folder that is written into has a private one around it."""
    system, folders = entered, {path.rpartition("/")[0] for path in unix_sockets(entered)}
    for pid in system.processes():
        with suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    path = Path(os.readlink(f"/proc/{pid}/fd/{fd}"))
                    if path.is_file() and path.is_relative_to(system.directory):
                        folders.add(str(path.parent))
    # What this test itself writes down there.
    folders.discard(str(system.directory))
    assert any("/logs" in folder for folder in folders)
    os.seteuid(NOBODY)
    try:
        for folder in folders:
            with pytest.raises(PermissionError):
                os.listdir(folder)
    finally:
        os.seteuid(0)

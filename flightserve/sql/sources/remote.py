"""Files at an address (`https://`, `http://`, `s3://`, `gs://`): copied here, and served from the copy.

The engine has no extension for networks, so a file is fetched when its table is opened, and again when a look says
that it changed; queries never wait for another machine. A copy lives as long as some table is over it, in a folder that
goes with the process. Web addresses name one file each; buckets are listed, so that they may be folders and globs.

An address may hold credentials (`https://user:password@...`, a signed query): messages have none of that.
"""

from __future__ import annotations

import base64
import contextlib
import fnmatch
import functools
import hashlib
import os
import re
import shutil
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import IO, Any, Final

import pyarrow as pa

from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.sql.engine.spilling import SpillFolder
from flightserve.sql.sources.problems import BadFile

_ADDRESS: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_WEB: Final = frozenset({"http", "https"})
# Those that pyarrow has file systems for, everywhere.
_WILD: Final = re.compile(r"[*?\[]")
# A question mark that begins options (`?region=...`), and is no glob's.
_OPTIONS: Final = re.compile(r"\?(?=\w+=)")
_BUCKETS: Final = frozenset({"s3", "gs", "gcs"})
# How long a server may say nothing.
SILENCE_S: Final = 30.0
# How long one file may take, however little comes at a time.
FETCH_S_MAX: Final = 3600
PIECE_BYTES: Final = 1 << 20
# Of what is free on the disk, so much may be fetched.
DISK_SHARE: Final = 0.9
COPIES_MAX: Final = 10_000
# Where the path has no ending that says it.
_ENDINGS: Final = {
    "text/csv": ".csv",
    "text/tab-separated-values": ".tsv",
    "application/json": ".json",
    "application/x-ndjson": ".ndjson",
    "application/vnd.apache.parquet": ".parquet",
    "application/vnd.apache.arrow.file": ".arrow",
    "application/vnd.apache.arrow.stream": ".arrows",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": ".xlsx",
}


class Copy:
    """A file that was fetched: where it lies, and what it was there. Gone when nothing refers to it."""

    def __init__(self, path: str, origin: str, version: str) -> None:
        self.path = path
        self.origin = origin
        self.version = version
        self._gone = weakref.finalize(self, shutil.rmtree, os.path.dirname(path), ignore_errors=True)

    def __repr__(self) -> str:
        return f"<Copy of {self.origin}>"


@dataclass(frozen=True, slots=True)
class Fetched:
    """What an address is here: a file, or a folder of files."""

    path: str
    copies: tuple[Copy, ...]
    # Holds a folder of links to the copies.
    folder: object = None

    def of(self, files: Sequence[str]) -> tuple[Copy, ...]:
        """The copies that these files are."""
        return tuple(copy for copy in self.copies if copy.path in files)


def is_address(path: str) -> bool:
    """True for what names a file elsewhere."""
    return _ADDRESS.match(path) is not None


def without_secrets(address: str) -> str:
    """The address as it may be shown: without a user and without a query. A path is as it was."""
    if not is_address(address):
        return address
    parts = urllib.parse.urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    return urllib.parse.urlunsplit((parts.scheme, host, parts.path, "", ""))


def fetch(address: str) -> Fetched:
    """The file, or the files, at the address; what was fetched before and has not changed is not fetched again. Raises
    BadFile."""
    scheme = address.partition("://")[0].lower()
    told = without_secrets(address)
    try:
        if scheme in _WEB:
            copy = _fetch_web(address, told)
            return Fetched(copy.path, (copy,))
        if scheme in _BUCKETS:
            return _fetch_bucket(address, told)
    except (OSError, ValueError, HTTPException, pa.ArrowException) as error:
        raise BadFile(told, f"cannot be fetched: {_why(error, address)}") from error
    if scheme == "file":
        path = urllib.parse.unquote(urllib.parse.urlsplit(address).path)
        return Fetched(path, ())
    raise BadFile(told, f"is no address that can be read: {scheme}:// is none of https, http, s3, gs, file")


def _why(error: BaseException, address: str) -> str:
    if isinstance(error, urllib.error.HTTPError):
        # Of a redirection the reason may be an address, with what is secret in it.
        return f"HTTP {error.code}" + (f" {error.reason}" if error.code >= 400 else ", which leads to no https address")
    if isinstance(error, urllib.error.URLError):
        error = error.reason if isinstance(error.reason, BaseException) else error
    text = (getattr(error, "strerror", None) or str(error) or type(error).__name__).partition("\n")[0][:300]
    parts = urllib.parse.urlsplit(address)
    for secret in (parts.username, parts.password, parts.query):
        text = text.replace(secret, "...") if secret else text
    return text


# ---- what is here

_kept: Final[weakref.WeakValueDictionary[str, Copy]] = weakref.WeakValueDictionary()


@functools.cache
def _folder(pid: int) -> SpillFolder:
    folder = SpillFolder()
    weakref.finalize(_folder, folder.remove)
    return folder


def _keep(origin: str, key: str, version: str, name: str, write: Any) -> Copy:
    """The copy of that version, which `write` makes unless it is here."""
    held = _kept.get(key)
    if held is not None and held.version == version and os.path.exists(held.path):
        return held
    folder = tempfile.mkdtemp(dir=_folder(os.getpid()).path)
    copy = Copy(os.path.join(folder, name), origin, version)
    with open(copy.path, "x+b") as out:
        write(out)
        if not version:
            out.seek(0)
            copy.version = hashlib.file_digest(out, "blake2b").hexdigest()[:16]
    if held is not None and held.version == copy.version:
        return held
    _kept[key] = copy
    return copy


def _pour(pieces: Iterable[bytes], out: IO[bytes]) -> None:
    """Write what comes. Raises OSError when the disk has no room for more."""
    left = int(DISK_SHARE * shutil.disk_usage(os.path.dirname(out.name)).free)
    until_ns = monotonic_ns() + FETCH_S_MAX * NS_PER_S
    for piece in pieces:
        left -= len(piece)
        if monotonic_ns() > until_ns:
            raise OSError(f"it takes longer than {FETCH_S_MAX} s")
        if left < 0:
            raise OSError("it is larger than what this machine's disk has room for")
        out.write(piece)


# ---- the web


class _NoOtherSchemes(urllib.request.HTTPRedirectHandler):
    """Follows to web addresses only, and from https to https only."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        before, after = req.type, urllib.parse.urlsplit(newurl).scheme
        if after not in _WEB or (before == "https" and after != "https"):
            raise urllib.error.HTTPError(without_secrets(newurl), code, msg, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _fetch_web(address: str, told: str) -> Copy:
    parts = urllib.parse.urlsplit(address)
    if not parts.hostname:
        raise ValueError("the address names no host")
    opener = urllib.request.build_opener(_NoOtherSchemes)
    bare = urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query, ""))
    request = urllib.request.Request(bare, headers={"user-agent": "flightserve", "accept-encoding": "identity"})
    if parts.username is not None:
        pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        # Whoever it redirects to is not told.
        request.add_unredirected_header("authorization", f"Basic {base64.b64encode(pair.encode()).decode()}")
    held = _kept.get(address)
    if held is not None and held.version.startswith("etag "):
        request.add_header("if-none-match", held.version.removeprefix("etag "))
    try:
        with opener.open(request, timeout=SILENCE_S) as response:
            name = _name_of(parts.path, response.headers)
            version = _version_of(response.headers)
            return _keep(told, address, version, name, lambda out: _pour(_pieces(response), out))
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 304 and held is not None:
                return held
        raise


def _pieces(response: Any) -> Iterator[bytes]:
    expected, got = response.headers.get("content-length"), 0
    while piece := response.read(PIECE_BYTES):
        got += len(piece)
        yield piece
    if expected is not None and expected.isdecimal() and got != int(expected):
        raise OSError(f"the connection ended after {got} of {expected} bytes")


def _version_of(headers: Mapping[str, str]) -> str:
    """What the server calls this state of the file, "" where it says nothing: then the content tells."""
    if headers.get("etag"):
        return f"etag {headers['etag']}"
    if headers.get("last-modified"):
        return f"of {headers['last-modified']}, {headers.get('content-length')} bytes"
    return ""


def _name_of(path: str, headers: Mapping[str, str]) -> str:
    """What the copy is called: as the address ends, with an ending by the content's type where that has none."""
    name = re.sub(r"[^\w.=-]", "_", urllib.parse.unquote(path.rstrip("/").rpartition("/")[2])) or "file"
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    return name if "." in name else name + _ENDINGS.get(kind, "")


# ---- buckets


def _fetch_bucket(address: str, told: str) -> Fetched:
    from pyarrow import fs

    scheme, _, rest = address.partition("://")
    found = _OPTIONS.search(rest)
    place, query = (rest[: found.start()], rest[found.end() :]) if found else (rest, "")
    wild = _WILD.search(place)
    pattern = place if wild else ""
    fixed = place[: wild.start()].rpartition("/")[0] if wild else place
    where = f"{'gs' if scheme == 'gcs' else scheme}://{fixed}" + (f"?{query}" if query else "")
    system, root = fs.FileSystem.from_uri(where)
    (info,) = system.get_file_info([root])
    if info.type == fs.FileType.File:
        copy = _copy(system, info, address, told)
        return Fetched(copy.path, (copy,))
    infos = system.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True))
    infos = [each for each in infos if each.type == fs.FileType.File and _wanted(each.path, root, pattern)]
    if not infos:
        raise ValueError("nothing lies there")
    if len(infos) > COPIES_MAX:
        raise ValueError(f"{len(infos)} files lie there; at most {COPIES_MAX} are fetched")
    scheme_and_root = f"{told.partition('://')[0]}://"
    copies = [_copy(system, each, f"{address} {each.path}", scheme_and_root + each.path) for each in infos]
    return _folder_of([(os.path.relpath(info.path, root), copy) for info, copy in zip(infos, copies, strict=True)])


def _wanted(path: str, root: str, pattern: str) -> bool:
    parts = os.path.relpath(path, root).split("/")
    if "_delta_log" in parts or path.endswith(".metadata.json"):
        raise ValueError("a Delta or Iceberg table is read from this machine only; copy its folder here")
    hidden = any(part.startswith((".", "_")) for part in parts)
    return not hidden and (not pattern or _matches(path.split("/"), pattern.rpartition("@")[2].split("/")))


def _matches(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """As a glob does: a wildcard stays within a name, `**` is any number of folders."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(_matches(path[n:], pattern[1:]) for n in range(len(path) + 1))
    return bool(path) and fnmatch.fnmatchcase(path[0], pattern[0]) and _matches(path[1:], pattern[1:])


def _copy(system: Any, info: Any, key: str, told: str) -> Copy:
    def write(out: IO[bytes]) -> None:
        with system.open_input_stream(info.path, compression=None) as data:
            _pour(iter(functools.partial(data.read, PIECE_BYTES), b""), out)

    return _keep(told, key, f"{info.size} {info.mtime_ns}", os.path.basename(info.path), write)


class _Links:
    """A folder of links, gone when nothing refers to it."""

    def __init__(self) -> None:
        self.path = tempfile.mkdtemp(dir=_folder(os.getpid()).path)
        self._gone = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def _folder_of(copies: Sequence[tuple[str, Copy]]) -> Fetched:
    """The copies as they lie there below one folder."""
    links = _Links()
    linked = []
    for relative, copy in copies:
        place = os.path.join(links.path, relative)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.symlink(copy.path, place)
        linked.append(_Linked(place, copy, links))
    return Fetched(links.path, tuple(linked), links)


class _Linked(Copy):
    """A copy by the path of a link to it."""

    def __init__(self, path: str, copy: Copy, links: _Links) -> None:
        self.path, self.origin, self.version = path, copy.origin, copy.version
        self._held = (copy, links)

"""What arguments say: tables, times, numbers of replicas. Raise argparse.ArgumentTypeError."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from flightserve.config import UNIX

_ADDRESS: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_UNITS_S: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
# As DuckDB reads them: KB is a thousand, KiB 1,024.
_PREFIXES: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def table(text: str) -> tuple[str, str]:
    """NAME=PATH, or PATH: the name is then the file's without its ending, or the folder's. What exists is a path;
    an address may be one."""
    exists = os.path.exists(text)
    name, separator, path = text.partition("=")
    if separator and name.isidentifier() and not exists:
        if not path:
            raise argparse.ArgumentTypeError(f"{text!r} has no path; write NAME=PATH")
        return name, path
    if _ADDRESS.match(text):
        # Of an address the path, without what asks for it.
        parts = urlsplit(text)
        where = Path(unquote(parts.path.rstrip("/")) or parts.hostname or "")
    else:
        where = Path(os.path.abspath(text) if exists else text)
    stem = where.parent.name if any(c in where.name for c in "*?[") and not exists else where.name.partition(".")[0]
    name = re.sub(r"\W", "_", stem)
    if not name.strip("_") or name[0].isdigit():
        shown = text.partition("?")[0].rpartition("@")[2] if _ADDRESS.match(text) else text
        raise argparse.ArgumentTypeError(f"{shown!r} gives no name to call the table by; write NAME=PATH")
    return name, text


def is_address(text: str) -> bool:
    """Whether it is one (https://, s3://), and no path."""
    return bool(_ADDRESS.match(text))


def csv_option(text: str) -> tuple[str, str]:
    """KEY=VALUE."""
    name, separator, value = text.partition("=")
    if not separator or not name.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE, as in delim=';' or null=NA")
    return name.strip(), value


def seconds(text: str) -> float:
    """30, 30s, 500ms, 5m or 1h, in seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write it as 30s, 500ms, 5m or 1h")
    return float(found[1]) * _UNITS_S[found[2]]


def size(text: str) -> int:
    """65536, 64KB, 64MiB or 1.5GB, in bytes."""
    found = re.fullmatch(r"(\d{1,18}(?:\.\d{1,9})?) ?([kmgt]?)(i?)b?", text.strip().lower(), re.ASCII)
    if found is None or (found[3] and not found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write it in bytes, or as 64MB (10^6) or 64MiB (2^20)")
    number = float(found[1]) if "." in found[1] else int(found[1])
    return int(number * (1024 if found[3] else 1000) ** _PREFIXES[found[2]])


def port(text: str) -> int | str:
    """A number, or `unix:PATH`. Which ones may be is `FrontendOptions`' to say."""
    if text.startswith(UNIX):
        return text
    if not re.fullmatch(r"-?\d{1,6}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no port; write a number, 0 to 65535, where 0 takes a free one")
    return int(text)


def replica_counts(text: str) -> tuple[str, int | tuple[int, int]]:
    """NAME=N, or NAME=LOW-HIGH: bounds between which the number follows the load."""
    name, separator, counts = text.partition("=")
    found = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", counts, re.ASCII)
    if not (name and separator and found):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=N, nor NAME=LOW-HIGH")
    low, high = found.groups()
    return name, int(low) if high is None else (int(low), int(high))


def replica_count(text: str) -> tuple[str, int]:
    """NAME=N: a deployment and how many replicas it has."""
    name, separator, count = text.partition("=")
    if not (name and separator and count.isdigit()):
        hint = "; bounds are set by a scale" if "-" in count else ""
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=N{hint}")
    return name, int(count)

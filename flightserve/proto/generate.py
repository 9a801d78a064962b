"""Writes the gRPC stubs of `proto/` into this package: `python -m flightserve.proto.generate [--check]`.

protoc keeps a file's path as its identity in the process-wide descriptor pool, so the stubs are generated
under the path every other user of the .proto has (`flightserve/v1/...`): a client that made its own stubs and
imports flightserve too registers the same file twice, which protobuf allows. Only the import inside the
service stub is changed, to the package where the stubs live.

`--check` writes nothing and exits with 1 where a checked-in stub differs from what would be written.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROTO_ROOT = HERE.parents[1] / "proto"
SOURCE = "flightserve/v1/flightserve.proto"
NAMES = ("flightserve_pb2.py", "flightserve_pb2.pyi", "flightserve_pb2_grpc.py")


def generate() -> dict[str, str]:
    """The stubs' file names and texts. RuntimeError where protoc refuses the .proto."""
    # Developers' tools only: not installed where flightserve merely runs.
    import grpc_tools
    from grpc_tools import protoc

    well_known = str(Path(grpc_tools.__file__).parent / "_proto")
    with tempfile.TemporaryDirectory() as out:
        args = ["protoc", f"-I{PROTO_ROOT}", f"-I{well_known}"]
        args += [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
        if protoc.main([*args, SOURCE]):
            raise RuntimeError(f"protoc refused {SOURCE}")
        written = Path(out, SOURCE).parent
        return {name: _as_package(written.joinpath(name).read_text()) for name in NAMES}


def _as_package(text: str) -> str:
    return text.replace("from flightserve.v1 import", "from flightserve.proto import")


def main(args: list[str]) -> int:
    """Write the stubs, or compare them with `--check`; the exit status."""
    if args not in ([], ["--check"]):
        print("usage: python -m flightserve.proto.generate [--check]", file=sys.stderr)
        return 2
    stubs = generate()
    if not args:
        for name, text in stubs.items():
            HERE.joinpath(name).write_text(text)
        return 0
    stale = [name for name, text in stubs.items() if _current(name) != text]
    if stale:
        print(f"stale stubs: {', '.join(stale)}; run `make proto`", file=sys.stderr)
        return 1
    return 0


def _current(name: str) -> str | None:
    path = HERE / name
    return path.read_text() if path.exists() else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

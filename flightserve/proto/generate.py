"""Writes the stubs of the .proto files here into this package: `python -m flightserve.proto.generate [--check]`.

protoc keeps a file's path as its identity in the process-wide descriptor pool, so flightserve's own stubs are
generated under the path every other user of the .proto has (`flightserve/v1/...`): a client that made its own stubs
and imports flightserve too registers the same file twice, which protobuf allows. Only the import inside the service
stub is changed, to the package where the stubs live.

Arrow's messages and KServe's are another matter: clients such as flightsql-dbapi and tritonclient register .proto files
of their own, whose texts differ from ours, and one pool refuses two files that define the same names. Their stubs use
`private_pool`.

protoc is an old one (grpcio-tools in constraints.txt). Stubs run with the protobuf library that they were made for and
with later ones, so that flightserve can be installed beside others, of which many hold protobuf below 7, or 6.

`--check` writes nothing and exits with 1 where a checked-in stub differs from what would be written.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The folder that `-I` of protoc names; the files travel in the wheel.
PROTO_ROOT = HERE
SHARED = "flightserve/v1/flightserve.proto"
PRIVATE = ("arrow/flight/flight.proto", "arrow/flight/sql.proto", "inference/kserve.proto")
POOL_IMPORT = "from google.protobuf import descriptor_pool as _descriptor_pool"


def generate() -> dict[str, str]:
    """The stubs' file names and texts. RuntimeError where protoc refuses a .proto."""
    stubs = _stubs(SHARED, "python", "pyi", "grpc_python")
    stubs["flightserve_pb2_grpc.pyi"] = _service_types((PROTO_ROOT / SHARED).read_text())
    for source in PRIVATE:
        stubs |= _stubs(source, "python", "pyi")
    return stubs


def _stubs(source: str, *kinds: str) -> dict[str, str]:
    # Developers' tools only: not installed where flightserve merely runs.
    import grpc_tools
    from grpc_tools import protoc

    well_known = str(Path(grpc_tools.__file__).parent / "_proto")
    with tempfile.TemporaryDirectory() as out:
        args = ["protoc", f"-I{PROTO_ROOT}", f"-I{well_known}", *(f"--{kind}_out={out}" for kind in kinds)]
        if protoc.main([*args, source]):
            raise RuntimeError(f"protoc refused {source}")
        written = sorted(Path(out, source).parent.iterdir())
        return {path.name: _as_package(path.read_text(), source in PRIVATE) for path in written}


def _service_types(proto: str) -> str:
    """Types of the service, which grpcio-tools writes none of. What a call returns depends on the channel."""
    (service,) = re.findall(r"^service (\w+)", proto, re.MULTILINE)
    calls = re.findall(r"^ *rpc (\w+)\((stream )?(\w+)\)", proto, re.MULTILINE)
    lines = ["from typing import Any", "", "from flightserve.proto import flightserve_pb2", "", f"class {service}Stub:"]
    lines += [f"    {name}: Any" for name, *_ in calls]
    lines += ["    def __init__(self, channel: Any) -> None: ...", "", f"class {service}Servicer:"]
    for name, stream, request in calls:
        kind = "Any" if stream else f"flightserve_pb2.{request}"
        lines.append(f"    def {name}(self, request{'_iterator' if stream else ''}: {kind}, context: Any) -> Any: ...")
    servicer = f"servicer: {service}Servicer, server: Any"
    return "\n".join([*lines, "", f"def add_{service}Servicer_to_server({servicer}) -> None: ...", ""])


def _as_package(text: str, private: bool) -> str:
    if private:
        return text.replace(POOL_IMPORT, "from flightserve.proto import private_pool as _descriptor_pool")
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

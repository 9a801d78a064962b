"""What is wrong with an inference is said with the status that KServe's clients expect, and nobody else is harmed."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as triton_pb
from tritonclient.utils import InferenceServerException

from flightserve.errors import InvalidArgument
from flightserve.frontends.kserve.grpc_messages import FIELDS_MAX, read_asked, read_infer_request
from flightserve.proto import kserve_pb2 as pb
from tests.frontends.kserve.conftest import LIMIT, Triton
from tests.frontends.kserve.test_clients import ask, tensor
from tests.support import eventually

NOT_FOUND = ("StatusCode.NOT_FOUND", "404")
INVALID = ("StatusCode.INVALID_ARGUMENT", "400")
UNIMPLEMENTED = ("StatusCode.UNIMPLEMENTED", "501")
INTERNAL = ("StatusCode.INTERNAL", "500")
X = np.ones(2, np.float32)
TEXTS = np.array([b"\xff", b"b"], dtype=object)


@pytest.fixture(autouse=True)
def nobody_else_is_harmed(models: Any) -> Iterator[None]:
    """The next good request works, and nothing is left of the bad one."""
    yield
    with tritonclient.grpc.InferenceServerClient(models.addresses["grpc"]) as client:
        assert client.infer("Model", [tensor(tritonclient.grpc, "x", X)]).as_numpy("y").tolist() == [2, 2]
    with tritonclient.http.InferenceServerClient(models.addresses["http"].removeprefix("http://")) as client:
        assert client.infer("Model", [tensor(tritonclient.http, "x", X)]).as_numpy("y").tolist() == [2, 2]
    frontends = [models._running["grpc"], models._running["http"]]
    busy = ("calls_in_flight", "streams_open", "http_in_flight", "http_held_bytes")
    eventually(lambda: not any(f.statistics().get(name) for f in frontends for name in busy), what=repr(frontends))


@pytest.mark.parametrize(
    ("model", "extra", "inputs", "status", "says"),
    [
        ("Nothing", {}, {"x": X}, NOT_FOUND, "no deployment 'Nothing'; deployed"),
        ("Model.nothing", {}, {"x": X}, NOT_FOUND, "no method 'nothing'"),
        ("Several", {}, {"x": X}, NOT_FOUND, "its models: Several.one, Several.two"),
        ("Model", {"model_version": "7"}, {"x": X}, NOT_FOUND, "no version '7'"),
        ("Model", {}, {}, INVALID, "no inputs"),
        ("Model", {}, {"z": X}, INVALID, r"missing inputs \['x'\]; unknown inputs \['z'\]"),
        ("Model", {}, {"x": X, "z": X}, INVALID, r"unknown inputs \['z'\]"),
        ("Model", {}, {"x": TEXTS}, INVALID, "column 'x' is binary"),
        ("Model", {}, {"x": np.ones((2, 3), np.float32)}, INVALID, r"takes one value a row, \[n\] or \[n, 1\]"),
        ("Model.features", {}, {"features": X, "name": TEXTS}, INVALID, r"takes \[n, 3\]"),
        (
            "Model.features",
            {},
            {"features": np.ones((2, 3), np.float32), "name": TEXTS},
            INVALID,
            "element 0 is no UTF-8",
        ),
        ("Model.echo", {}, {"a": np.ones(2), "b": np.ones(3)}, INVALID, "'a' has 2, 'b' has 3"),
        ("Model", {"priority": 10}, {"x": X}, INVALID, "priority is 10"),
        ("Model", {"sequence_id": 5}, {"x": X}, UNIMPLEMENTED, "there are no sequences"),
        ("Model.nulls", {}, {"x": X}, UNIMPLEMENTED, "has a null"),
        ("Model.structs", {}, {"x": X}, UNIMPLEMENTED, "no tensor has"),
        ("Model.boom", {}, {"x": X}, INTERNAL, "ValueError: boom"),
    ],
)
def test_what_is_wrong_is_said(
    triton: Triton, model: str, extra: dict[str, Any], inputs: dict[str, Any], status: tuple[str, str], says: str
) -> None:
    with pytest.raises(InferenceServerException, match=says) as caught:
        ask(triton, model, extra, **inputs)
    assert caught.value.status() in status
    assert isinstance(caught.value.message(), str)


def test_unknown_outputs(triton: Triton) -> None:
    for model in ("Model", "Model.echo"):
        for name in ("z", ""):
            wanted = [triton.module.InferRequestedOutput(name)]
            with pytest.raises(InferenceServerException, match="unknown outputs") as caught:
                ask(triton, model, {"outputs": wanted}, x=X)
            assert caught.value.status() in INVALID
    twice = [triton.module.InferRequestedOutput("y"), triton.module.InferRequestedOutput("y")]
    with pytest.raises(InferenceServerException, match="asked for twice"):
        ask(triton, "Model", {"outputs": twice}, x=X)
    ranked = [triton.module.InferRequestedOutput("y", class_count=2)]
    with pytest.raises(InferenceServerException, match="no classifications"):
        ask(triton, "Model", {"outputs": ranked}, x=X)


def test_an_input_twice(triton: Triton) -> None:
    with pytest.raises(InferenceServerException, match="comes 2 times"):
        triton.client.infer("Model", [tensor(triton.module, "x", X), tensor(triton.module, "x", X)])


def test_descriptions_of_unknown_models(triton: Triton) -> None:
    client = triton.client
    for describe in (client.get_model_metadata, client.get_model_config, client.get_inference_statistics):
        for name, version in (("Nothing", ""), ("Model", "7")):
            with pytest.raises(InferenceServerException) as caught:
                describe(name, version)
            assert caught.value.status() in NOT_FOUND


def test_shared_memory_is_refused(triton: Triton) -> None:
    asked = triton.module.InferInput("x", [2], "FP32")
    asked.set_shared_memory("region", 8)
    with pytest.raises(InferenceServerException, match="no shared memory"):
        triton.client.infer("Model", [asked])


def test_there_are_no_regions(triton: Triton) -> None:
    """Programs that clean up before they begin go on."""
    client = triton.client
    assert not getattr(client.get_system_shared_memory_status(), "regions", None)
    client.unregister_system_shared_memory()
    client.unregister_system_shared_memory("mine")
    with pytest.raises(InferenceServerException, match="no shared memory region 'mine'") as caught:
        client.get_system_shared_memory_status("mine")
    assert caught.value.status() in NOT_FOUND
    with pytest.raises(InferenceServerException, match="no memory is shared") as caught:
        client.register_system_shared_memory("mine", "/mine", 8)
    assert caught.value.status() in UNIMPLEMENTED


# ---- gRPC


@pytest.fixture(scope="module")
def stub(models: Any) -> Iterator[Any]:
    with grpc.insecure_channel(models.addresses["grpc"]) as channel:
        yield tritonclient.grpc.service_pb2_grpc.GRPCInferenceServiceStub(channel)


def request(raw: list[bytes] | None = None, **fields: Any) -> Any:
    """A request for two floats."""
    made = triton_pb.ModelInferRequest(model_name="Model")
    made.inputs.add(**{"name": "x", "datatype": "FP32", "shape": [2], **fields})
    made.raw_input_contents.extend([X.tobytes()] if raw is None else raw)
    return made


def contents(**filled: Any) -> Any:
    return triton_pb.InferTensorContents(**filled)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (request([X.tobytes()[:-1]]), "7 bytes"),
        (request([X.tobytes() + b"\0"]), "9 bytes"),
        (request([b""]), "0 bytes"),
        (request([X.tobytes()] * 2), "2 raw contents for 1 inputs"),
        (request(contents=contents(fp32_contents=[1, 2])), "both contents and raw contents"),
        (request([]), "0 values"),
        (request([], contents=contents(fp32_contents=[1])), "1 values"),
        (request([], contents=contents(int_contents=[1, 2])), "has int_contents; contents of 'FP32' are in fp32"),
        (request([], contents=contents(fp32_contents=[1], fp64_contents=[1])), "has fp32_contents, fp64_contents"),
        (request([], datatype="INT8", contents=contents(int_contents=[1, 128])), "a value does not fit INT8"),
        (request([], datatype="UINT8", contents=contents(uint_contents=[1, 256])), "a value does not fit UINT8"),
        (request([], datatype="FP16", contents=contents(fp32_contents=[1, 2])), "are raw alone"),
        (request([], datatype="FP16"), "no contents"),
        (request(datatype="FLOAT"), "datatype 'FLOAT' is none of"),
        (request(datatype=""), "datatype '' is none of"),
        (request(shape=[]), "the shape is empty"),
        (request(shape=[-2]), "rows are 0 or more"),
        (request(shape=[2**62, 2**62]), "a row has at most"),
        (request(shape=[2**63 - 1]), "takes 36893488147419103228"),
        (request(shape=[2] + [1] * 40), "41 dimensions"),
        (request(name=""), "''"),
        (b"\xff\xff\xff", "not an inference.ModelInferRequest"),
        (b"", "no deployment ''"),
    ],
)
def test_bad_messages(models: Any, message: Any, says: str) -> None:
    sent = message if isinstance(message, bytes) else message.SerializeToString()
    with grpc.insecure_channel(models.addresses["grpc"]) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            call(sent, timeout=20)
    assert says in caught.value.details()
    assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)


@pytest.mark.parametrize(
    ("name", "value"), [("timeout", -1), ("priority", -1), ("timeout", "soon"), ("priority", True)]
)
def test_bad_parameters(stub: Any, name: str, value: Any) -> None:
    made = request()
    kind = {int: "int64_param", str: "string_param", bool: "bool_param"}[type(value)]
    setattr(made.parameters[name], kind, value)
    with pytest.raises(grpc.RpcError, match="whole number, 0 or more") as caught:
        stub.ModelInfer(made, timeout=20)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_parameter_that_says_nothing_is_left_out(stub: Any) -> None:
    made = request()
    made.parameters["priority"].SetInParent()
    assert stub.ModelInfer(made, timeout=20).outputs[0].name == "y"


def test_what_is_not_there_is_unimplemented(stub: Any) -> None:
    for call, message in (
        (stub.RepositoryModelLoad, triton_pb.RepositoryModelLoadRequest(model_name="x")),
        (stub.CudaSharedMemoryStatus, triton_pb.CudaSharedMemoryStatusRequest()),
        (stub.TraceSetting, triton_pb.TraceSettingRequest()),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call(message, timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@given(st.binary(max_size=60), st.integers(0, 3))
def test_large_messages_are_read_as_small_ones(noise: bytes, where: int) -> None:
    """Cut by hand or by the generated parser: the same request, or the same refusal."""
    made = pb.ModelInferRequest(model_name="m", id="i", raw_input_contents=[bytes(70_000), b"two"])
    made.inputs.add(name="x", shape=[1])
    parts = [made.SerializeToString()]
    parts.insert(where % 2, noise)
    message = b"".join(parts)
    try:
        expected = pb.ModelInferRequest.FromString(message)
    except Exception:
        with pytest.raises(InvalidArgument):
            read_infer_request(message)
        return
    got, raw = read_infer_request(message)
    assert [bytes(each) for each in raw] == list(expected.raw_input_contents)
    del expected.raw_input_contents[:]
    del got.raw_input_contents[:]
    assert got == expected


@pytest.mark.parametrize("repeated", [b"\x2a\x00", b"\x32\x00", b"\x3a\x00", b"\x78\x01\x2a\x00"])
def test_a_message_of_too_many_fields(repeated: bytes) -> None:
    """Each would be looked at while nobody else is served; whether it is cut by hand or by the generated parser."""
    with pytest.raises(InvalidArgument, match="more than 100000 inputs"):
        read_infer_request(repeated * (FIELDS_MAX + 1))


def test_raw_contents_of_a_large_message_are_views_of_it() -> None:
    message = pb.ModelInferRequest(raw_input_contents=[bytes(70_000)]).SerializeToString()
    _, (raw,) = read_infer_request(message)
    assert isinstance(raw, memoryview)
    assert raw.obj is message


def test_a_client_that_goes_ends_its_request(models: Any, stub: Any) -> None:
    made = request()
    made.model_name = "Model.never"
    going = stub.ModelInfer.future(made)
    grpc_frontend = models._running["grpc"]
    eventually(lambda: grpc_frontend.statistics()["calls_in_flight"] == 1, what="the call runs")
    going.cancel()
    eventually(lambda: grpc_frontend.statistics()["calls_in_flight"] == 0, what="the call has ended")


# ---- HTTP

GOOD = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}]}


def post(models: Any, body: Any, path: str = "/v2/models/Model/infer", **headers: str) -> tuple[int, Any, Any]:
    """Status, JSON and headers."""
    parts = urlsplit(models.addresses["http"])
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    try:
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, sent, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, json.loads(response.read()), response.headers
    finally:
        connection.close()


def one(**changed: Any) -> Any:
    return {"inputs": [{**GOOD["inputs"][0], **changed}]}


RAW = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}]}
).encode()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not an inference request"),
        (b"{", "not an inference request"),
        (b"[]", "not an inference request"),
        (b"{}", "inputs"),
        (b'{"inputs": [{"name": "\xff"}]}', "UTF-8"),
        (b"[" * 100_000, "not an inference request"),
        (b'{"inputs": [{"name":"x","datatype":"FP32","shape":[1],"data":' + b"[" * 100_000, "request"),
        ({"inputs": []}, "no inputs"),
        ({**GOOD, "parameters": {"priority": -1}}, "priority"),
        ({**GOOD, "parameters": {"timeout": 1.5}}, "timeout"),
        ({**GOOD, "parameters": {"binary_data_output": "yes"}}, "true or false"),
        ({**GOOD, "id": 5}, "id"),
        (one(shape=["2"]), "shape"),
        (one(shape=[2.5]), "shape"),
        (one(shape=[2**64]), "shape"),
        (one(shape=[3]), "2 values"),
        (one(shape=[2, 2]), "2 values"),
        (one(data=[[1, 2]]), "not nested"),
        (one(data=[1, [2]]), "not nested"),
        (one(data=[1, "2"]), "takes no string"),
        (one(data=[1, None]), "null"),
        (one(data=[1, 1e39]), "a value is beyond FP32"),
        (one(data="12"), "data"),
        (one(datatype="FP33"), "FP33"),
        (one(data=[1, 2], parameters={"binary_data_size": 8}), "both data and binary_data_size"),
        (one(data=[1, 2], parameters={"shared_memory_region": "r"}), "shared memory"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2]}]}, "no contents"),
        (RAW + bytes(8), "not an inference request"),
    ],
)
def test_bad_bodies(models: Any, body: Any, says: str) -> None:
    status, answer, _ = post(models, body)
    assert says in answer["error"]
    assert status == (501 if "shared" in says else 400)


@pytest.mark.parametrize(
    ("body", "length", "says"),
    [
        (RAW + bytes(8), len(RAW) + 9, "the body has"),
        (RAW + bytes(8), len(RAW) - 1, "not an inference request"),
        (RAW + bytes(8), len(RAW) + 1, "not an inference request"),
        (RAW + bytes(7), len(RAW), "7 bytes are left"),
        (RAW + bytes(9), len(RAW), "1 bytes follow"),
        (RAW + bytes(8), 0, "not an inference request"),
        (RAW + bytes(8), -1, "a number of bytes"),
        (RAW + bytes(8), "1e2", "a number of bytes"),
        (RAW + bytes(8), "9" * 40, "a number of bytes"),
        (json.dumps(GOOD).encode() + b"x", len(json.dumps(GOOD)), "1 bytes follow"),
    ],
)
def test_lies_about_the_length_of_the_header(models: Any, body: bytes, length: object, says: str) -> None:
    status, answer, _ = post(models, body, inference_header_content_length=str(length))
    assert (status, says in answer["error"]) == (400, True), answer


@pytest.mark.parametrize("size", [-1, 2**70, "8", 7.5, True])
def test_lies_about_the_size_of_a_tensor(models: Any, size: object) -> None:
    head = json.dumps(
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": size}}]}
    )
    status, answer, _ = post(models, head.encode() + bytes(8), inference_header_content_length=str(len(head)))
    assert (status, "binary_data_size" in answer["error"]) == (400, True), answer


def test_values_nested_as_the_shape_is(models: Any) -> None:
    body = {"inputs": [{"name": "x", "datatype": "INT64", "shape": [2, 2], "data": [[1, 2], [3, 4]]}]}
    status, answer, _ = post(models, body, "/v2/models/Model.echo/infer")
    assert (status, answer["outputs"][0]["data"]) == (200, [1, 2, 3, 4])


def test_too_large(models: Any) -> None:
    status, answer, _ = post(models, bytes(LIMIT + 1), inference_header_content_length="1")
    assert (status, isinstance(answer["error"], str)) == (413, True)


def test_an_infinity_in_json(models: Any) -> None:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [3e38]}]}
    status, answer, _ = post(models, body)
    assert (status, "infinity" in answer["error"]) == (501, True)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/models/Nothing/infer", 404),
        ("/v2/models/Model/versions/7/infer", 404),
        ("/v2/models/Model/versions/infer", 405),
        ("/v2/models//infer", 404),
        ("/v2/models/Mod%2Fel/infer", 404),
        ("/v2/models/%ff%00/infer", 404),
        ("/v2/models/Model/versions//infer", 404),
        ("/v2/models/Model", 405),
        ("/v2/repository/models/Model/load", 404),
        ("/v2/nothing", 404),
    ],
)
def test_paths(models: Any, path: str, status: int) -> None:
    got, answer, _ = post(models, GOOD, path)
    assert (got, isinstance(answer["error"], str)) == (status, True)


def test_a_body_for_the_index(models: Any) -> None:
    assert post(models, {"ready": True}, "/v2/repository/index")[0] == 200
    for bad in (b"{", b'{"ready": 1}', b"x" * 5000):
        status, answer, _ = post(models, bad, "/v2/repository/index")
        assert (status in (400, 413), isinstance(answer["error"], str)) == (True, True)


def test_the_request_id_of_a_refusal(models: Any) -> None:
    _, _, headers = post(models, {"inputs": []}, x_request_id="mine")
    assert headers["x-request-id"] == "mine"


def test_an_http_client_that_goes_ends_its_request(models: Any) -> None:
    parts = urlsplit(models.addresses["http"])
    body = json.dumps(GOOD).encode()
    head = f"POST /v2/models/Model.never/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
    frontend = models._running["http"]
    with socket.create_connection((parts.hostname, parts.port)) as gone:
        gone.sendall(head.encode() + body)
        eventually(lambda: frontend.statistics()["http_in_flight"] == 1, what="the request runs")
    eventually(lambda: frontend.statistics()["http_in_flight"] == 0, what="the request has ended")


def test_read_asked_of_any_message() -> None:
    """No field has to be there."""
    assert read_asked(pb.ModelInferRequest(), []).inputs == []

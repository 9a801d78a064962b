"""tritonclient, unmodified, by gRPC and HTTP: everything that works."""

from __future__ import annotations

import asyncio
import queue
import threading
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from flightserve.frontends.kserve import tensors
from tests.frontends.kserve.conftest import Triton

NUMBERS = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
)


def tensor(module: Any, name: str, values: np.ndarray, **how: Any) -> Any:
    """An input with these values."""
    made = module.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    made.set_data_from_numpy(values, **how)
    return made


def ask(triton: Triton, model: str, extra: dict[str, Any] | None = None, **inputs: np.ndarray) -> Any:
    tensors = [tensor(triton.module, name, values) for name, values in inputs.items()]
    return triton.client.infer(model, tensors, **(extra or {}))


def said(triton: Triton, response: Any) -> Any:
    """A description as JSON, whichever protocol it came by."""
    if triton.name == "http":
        return response
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(response, preserving_proto_field_name=True)


def test_health(triton: Triton) -> None:
    client = triton.client
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("Model")
    assert client.is_model_ready("Model.echo")
    assert not client.is_model_ready("Nothing")
    assert not client.is_model_ready("Model", "7")


def test_descriptions(triton: Triton) -> None:
    client = triton.client
    server = said(triton, client.get_server_metadata())
    assert (server["name"], "binary_tensor_data" in server["extensions"]) == ("flightserve", True)
    model = said(triton, client.get_model_metadata("Model"))
    assert model["name"] == "Model"
    (version,) = model["versions"]
    shape = [-1] if triton.name == "http" else ["-1"]
    assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": shape}]
    assert model["outputs"] == [{"name": "y", "datatype": "FP32", "shape": shape}]
    same = said(triton, client.get_model_metadata("Model", version))
    assert same == model
    features = said(triton, client.get_model_metadata("Model.features"))["inputs"]
    assert [int(size) for size in features[0]["shape"]] == [-1, 3]
    assert said(triton, client.get_model_metadata("Model.halved"))["outputs"][0]["datatype"] == "BF16"


def test_configurations(triton: Triton) -> None:
    config = said(triton, triton.client.get_model_config("Model.features"))
    config = config.get("config", config)
    assert config["max_batch_size"] == 65_536
    (features, name) = config["input"]
    assert (features["data_type"], [int(size) for size in features["dims"]]) == ("TYPE_FP32", [3])
    assert (name["data_type"], [int(size) for size in name["dims"]]) == ("TYPE_STRING", [1])
    decoupled = said(triton, triton.client.get_model_config("Model.parts"))
    assert decoupled.get("config", decoupled)["model_transaction_policy"]["decoupled"]


def test_the_index_has_every_model_once(triton: Triton) -> None:
    index = said(triton, triton.client.get_model_repository_index())
    names = [model["name"] for model in (index["models"] if triton.name == "grpc" else index)]
    assert len(set(names)) == len(names)
    assert {"Model", "Model.echo", "Only", "Several.one", "Several.two"} <= set(names)
    assert "Several" not in names


def test_statistics_count_what_was_asked(triton: Triton) -> None:
    def stats() -> tuple[int, int, int]:
        (one,) = said(triton, triton.client.get_inference_statistics("Several.one"))["model_stats"]
        counts = one["inference_stats"]
        done, failed = counts["success"].get("count", 0), counts["fail"].get("count", 0)
        return int(one.get("inference_count", 0)), int(done), int(failed)

    rows, done, failed = stats()
    with pytest.raises(InferenceServerException):
        ask(triton, "Several.one")
    ask(triton, "Several.one", x=np.zeros(3, np.float32))
    assert stats() == (rows + 3, done + 1, failed + 1)
    everything = said(triton, triton.client.get_inference_statistics())["model_stats"]
    assert "Model" in [one["name"] for one in everything]


def test_an_inference(triton: Triton) -> None:
    result = ask(triton, "Model", {"request_id": "mine"}, x=np.arange(5, dtype=np.float32))
    assert result.as_numpy("y").tolist() == [0, 2, 4, 6, 8]
    response = said(triton, result.get_response())
    assert response["id"] == "mine"
    assert response["model_name"] == "Model"


def test_the_only_method_is_the_model(triton: Triton) -> None:
    assert ask(triton, "Only", x=np.arange(2)).as_numpy("x").tolist() == [0, 1]


@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.parametrize("shape", [(6,), (6, 1), (2, 3), (1, 2, 3), (0,), (0, 3)], ids=str)
def test_numbers_of_every_kind_and_shape(triton: Triton, kind: str, shape: tuple[int, ...]) -> None:
    sent = np.array([1, 0, 1, 1, 0, 1][: int(np.prod(shape))]).astype(kind).reshape(shape)
    got = ask(triton, "Model.echo", x=sent).as_numpy("x")
    assert (got.dtype, got.shape, got.tolist()) == (sent.dtype, sent.shape, sent.tolist())


def test_bytes(triton: Triton) -> None:
    sent = np.array([[b"a\xff", b""], ["é".encode(), b"\0"]], dtype=object)
    assert ask(triton, "Model.echo", x=sent).as_numpy("x").tolist() == sent.tolist()


def test_many_texts_are_written_where_they_hold_up_nobody(triton: Triton, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    raw = tensors.OutputTensor.raw

    def watched(output: tensors.OutputTensor) -> memoryview | bytes:
        threads.append(threading.current_thread().name)
        return raw(output)

    monkeypatch.setattr(tensors.OutputTensor, "raw", watched)
    sent = np.array([b"text"] * 20_000, dtype=object)
    for count in (3, 20_000):
        assert ask(triton, "Model.echo", x=sent[:count]).as_numpy("x").tolist() == [b"text"] * count
    loop, other = threads
    assert loop != other


def test_features_and_texts(triton: Triton) -> None:
    features = np.arange(6, dtype=np.float32).reshape(2, 3)
    result = ask(triton, "Model.features", name=np.array(["é", "b"], dtype=object), features=features)
    assert result.as_numpy("total").tolist() == [3, 12]
    assert [value.decode() for value in result.as_numpy("name")] == ["é", "b"]


def test_types_are_cast_where_every_value_stays_what_it_is(triton: Triton) -> None:
    assert ask(triton, "Model", x=np.array([1, 2])).as_numpy("y").tolist() == [2, 4]
    with pytest.raises(InferenceServerException, match="does not fit float"):
        ask(triton, "Model", x=np.array([2**53 + 1]))


def test_bf16(triton: Triton) -> None:
    sent = np.array([1.5, -2, 0], dtype=ml_dtypes.bfloat16)
    assert ask(triton, "Model", x=sent).as_numpy("y").tolist() == [3, -4, 0]
    halved = ask(triton, "Model.halved", x=sent).as_numpy("y")
    assert (halved.dtype, halved.tolist()) == (sent.dtype, sent.tolist())


def test_large_tensors(triton: Triton) -> None:
    sent = np.random.default_rng(0).random((1000, 500), np.float32)
    assert np.array_equal(ask(triton, "Model.echo", x=sent).as_numpy("x"), sent)


def test_outputs_by_name(triton: Triton) -> None:
    wanted = [triton.module.InferRequestedOutput("b")]
    result = ask(triton, "Model.echo", {"outputs": wanted}, a=np.arange(2), b=np.arange(2) + 5)
    assert result.as_numpy("b").tolist() == [5, 6]
    assert result.as_numpy("a") is None


def test_priority_timeout_and_id_reach_the_method(triton: Triton) -> None:
    extra = {"priority": 1, "timeout": 9_000_000, "request_id": "r-1"}
    result = ask(triton, "Model.seen", extra, x=np.arange(1))
    assert result.as_numpy("priority").tolist() == [9]
    assert result.as_numpy("id").tolist() == [b"r-1"]
    assert 0 < result.as_numpy("left_ms")[0] <= 9000
    assert ask(triton, "Model.seen", {"priority": 9}, x=np.arange(1)).as_numpy("priority").tolist() == [1]
    assert ask(triton, "Model.seen", x=np.arange(1)).as_numpy("priority").tolist() == [0]
    headed = ask(triton, "Model.seen", {"headers": {"x-priority": "4"}}, x=np.arange(1))
    assert headed.as_numpy("priority").tolist() == [4]


def test_a_timeout_ends_the_request(triton: Triton) -> None:
    with pytest.raises(InferenceServerException) as caught:
        ask(triton, "Model.never", {"timeout": 50_000}, x=np.arange(1))
    assert caught.value.status() in ("StatusCode.DEADLINE_EXCEEDED", "504")


def test_parts_of_a_generator_by_one_answer(triton: Triton) -> None:
    assert ask(triton, "Model.parts", x=np.arange(4)).as_numpy("x").tolist() == [0, 1, 2, 3]


# ---- HTTP's own


@pytest.fixture
def http(models: Any) -> Any:
    with tritonclient.http.InferenceServerClient(models.addresses["http"].removeprefix("http://")) as client:
        yield client


@pytest.mark.parametrize("kind", [*NUMBERS, "object"])
@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_json_and_binary(http: Any, kind: str, binary_in: bool, binary_out: bool) -> None:
    sent = (
        np.array([["a", "é"], ["", "b"]], dtype=object) if kind == "object" else np.array([[1, 0], [1, 1]]).astype(kind)
    )
    output = tritonclient.http.InferRequestedOutput("x", binary_data=binary_out)
    asked = [tensor(tritonclient.http, "x", sent, binary_data=binary_in)]
    result = http.infer("Model.echo", asked, outputs=[output])
    got = result.as_numpy("x")
    assert got.shape == sent.shape
    texts = [value.decode() if isinstance(value, bytes) else value for value in got.flatten()]
    assert texts == sent.flatten().tolist()
    assert ("data" in result.get_output("x")) is not binary_out


@pytest.mark.parametrize("packed", ["gzip", "deflate"])
def test_packed_requests(http: Any, packed: str) -> None:
    sent = np.arange(10_000, dtype=np.float32)
    how = {"request_compression_algorithm": packed, "response_compression_algorithm": packed}
    assert np.array_equal(http.infer("Model", [tensor(tritonclient.http, "x", sent)], **how).as_numpy("y"), sent * 2)


def test_nan_in_json_is_null(http: Any) -> None:
    sent = np.array([np.nan, 1], np.float32)
    asked = [tensor(tritonclient.http, "x", sent)]
    result = http.infer("Model.echo", asked, outputs=[tritonclient.http.InferRequestedOutput("x", binary_data=False)])
    assert result.get_output("x")["data"] == [None, 1]


def test_http_requests_that_are_not_waited_for(http: Any) -> None:
    going = [http.async_infer("Model", [tensor(tritonclient.http, "x", np.full(1, i, np.float32))]) for i in range(8)]
    assert [each.get_result().as_numpy("y").tolist() for each in going] == [[2 * i] for i in range(8)]


# ---- gRPC's own


@pytest.fixture
def grpc_client(models: Any) -> Any:
    with tritonclient.grpc.InferenceServerClient(models.addresses["grpc"]) as client:
        yield client


CONTENTS = {
    "BOOL": ("bool_contents", [True, False]),
    "INT8": ("int_contents", [1, -128]),
    "INT16": ("int_contents", [1, -5]),
    "INT32": ("int_contents", [1, -(2**31)]),
    "INT64": ("int64_contents", [1, -(2**63)]),
    "UINT8": ("uint_contents", [1, 255]),
    "UINT16": ("uint_contents", [1, 5]),
    "UINT32": ("uint_contents", [1, 2**32 - 1]),
    "UINT64": ("uint64_contents", [1, 2**64 - 1]),
    "FP32": ("fp32_contents", [1.5, -2.0]),
    "FP64": ("fp64_contents", [1.5, 0.1]),
    "BYTES": ("bytes_contents", [b"a", b"\xff"]),
}


@pytest.mark.parametrize("datatype", sorted(CONTENTS))
def test_typed_contents(grpc_client: Any, datatype: str) -> None:
    place, values = CONTENTS[datatype]
    request = tritonclient.grpc.service_pb2.ModelInferRequest(model_name="Model.echo", id="typed")
    sent = request.inputs.add(name="x", datatype=datatype, shape=[2])
    getattr(sent.contents, place).extend(values)
    response = grpc_client._client_stub.ModelInfer(request)
    assert tritonclient.grpc.InferResult(response).as_numpy("x").tolist() == values
    assert response.id == "typed"


def test_grpc_requests_that_are_not_waited_for(grpc_client: Any) -> None:
    answered: queue.Queue[Any] = queue.Queue()
    for i in range(8):
        asked = [tensor(tritonclient.grpc, "x", np.full(1, i, np.float32))]
        grpc_client.async_infer("Model", asked, lambda result, error: answered.put((result, error)))
    got = [answered.get(timeout=20) for _ in range(8)]
    assert sorted(result.as_numpy("y")[0] for result, _ in got) == [2.0 * i for i in range(8)]


def test_a_stream_has_each_part_and_the_end_where_that_is_asked(grpc_client: Any) -> None:
    answered: queue.Queue[Any] = queue.Queue()
    grpc_client.start_stream(lambda result, error: answered.put((result, error)))
    asked = [tensor(tritonclient.grpc, "x", np.arange(3))]
    grpc_client.async_stream_infer("Model.parts", asked, request_id="a", enable_empty_final_response=True)
    grpc_client.async_stream_infer("Model", [tensor(tritonclient.grpc, "x", np.ones(2, np.float32))], request_id="b")
    # One does not wait for the other.
    got = sorted([answered.get(timeout=20)[0] for _ in range(5)], key=lambda each: str(each.get_response().id))
    grpc_client.stop_stream()
    responses = [each.get_response() for each in got]
    assert [response.id for response in responses] == ["a"] * 4 + ["b"]
    assert [response.parameters["triton_final_response"].bool_param for response in responses] == [False] * 3 + [
        True
    ] * 2
    assert [each.as_numpy("x").tolist() for each in got[:3]] == [[0], [1], [2]]
    assert not responses[3].outputs
    assert got[4].as_numpy("y").tolist() == [2, 2]


def test_an_error_of_one_request_does_not_end_the_stream(grpc_client: Any) -> None:
    answered: queue.Queue[Any] = queue.Queue()
    grpc_client.start_stream(lambda result, error: answered.put((result, error)))
    for model, values in (("Nothing", [1]), ("Model.boom", [1]), ("Model.parts", [1, -1]), ("Only", [5])):
        grpc_client.async_stream_infer(model, [tensor(tritonclient.grpc, "x", np.array(values))])
    got = [answered.get(timeout=20) for _ in range(5)]
    grpc_client.stop_stream()
    texts = [None if error is None else error.message() for _, error in got]
    assert "Nothing" in texts[0]
    assert "boom" in texts[1]
    assert texts[2] is None
    assert "negative" in texts[3]
    assert got[4][0].as_numpy("x").tolist() == [5]


# ---- asyncio


def test_asyncio_clients(models: Any) -> None:
    async def go() -> tuple[list[Any], list[Any]]:
        address = models.addresses["http"].removeprefix("http://")
        async with (
            tritonclient.http.aio.InferenceServerClient(address) as http,
            tritonclient.grpc.aio.InferenceServerClient(models.addresses["grpc"]) as grpc,
        ):
            sent = np.arange(3, dtype=np.float32)
            by_http = await http.infer("Model", [tensor(tritonclient.http, "x", sent)])
            by_grpc = await grpc.infer("Model", [tensor(tritonclient.grpc, "x", sent)])

            async def requests() -> Any:
                yield {"model_name": "Model.parts", "inputs": [tensor(tritonclient.grpc, "x", sent)]}

            parts = [result.as_numpy("x").tolist() async for result, _ in grpc.stream_infer(requests())]
            return [by_http.as_numpy("y").tolist(), by_grpc.as_numpy("y").tolist()], parts

    answers, parts = asyncio.run(go())
    assert answers == [[0, 2, 4]] * 2
    assert parts == [[0], [1], [2]]


def test_many_clients_share_the_models(models: Any) -> None:
    """Rows of many clients are batched, and each gets its own."""
    wrong: list[str] = []

    def client(number: int) -> None:
        with tritonclient.grpc.InferenceServerClient(models.addresses["grpc"]) as own:
            for turn in range(20):
                sent = np.full(number + 1, 100 * number + turn, np.float32)
                got = own.infer("Model", [tensor(tritonclient.grpc, "x", sent)]).as_numpy("y")
                if got.tolist() != (sent * 2).tolist():
                    wrong.append(f"{sent}: {got}")

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []

"""Models in the ONNX format: tensors are columns, and what ONNX Runtime gives is what callers get."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
from onnx import TensorProto, helper, numpy_helper

import flightserve as fs
from flightserve.declare import spec_of
from flightserve.errors import ConfigError, InvalidArgument, SchemaMismatch
from flightserve.models.onnx_models import external_files
from flightserve.testing import LocalService
from tests.models.late import sk
from tests.plane import plane

FLOAT, DOUBLE, INT64, STRING = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.STRING
value = helper.make_tensor_value_info


def made(nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], constants: Sequence[Any] = ()) -> Any:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def square(rows: Any, *shape: int, kind: int = FLOAT) -> Any:
    """A model that multiplies each value by itself."""
    node = helper.make_node("Mul", ["x", "x"], ["y"])
    return made([node], [value("x", kind, [rows, *shape])], [value("y", kind, [rows, *shape])])


def columns() -> Any:
    """Inputs of several types, and a text that is given back."""
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Identity", ["word"], ["same"])]
    inputs = [value("a", FLOAT, [None, 1]), value("b", FLOAT, [None, 1]), value("word", STRING, [None])]
    return made(nodes, inputs, [value("sum", FLOAT, [None, 1]), value("same", STRING, [None])])


def sums() -> Any:
    """The sum of each row's values, however many these are, and the values themselves."""
    axis = numpy_helper.from_array(np.array([1]), "axis")
    nodes = [helper.make_node("ReduceSum", ["ids", "axis"], ["sum"], keepdims=0)]
    nodes.append(helper.make_node("Identity", ["ids"], ["each"]))
    return made(
        nodes, [value("ids", INT64, ["N", "L"])], [value("sum", INT64, ["N"]), value("each", INT64, ["N", "L"])], [axis]
    )


def classifier(**options: Any) -> Any:
    model = sk().LogisticRegression(max_iter=500).fit(sk().X.astype(np.float32), sk().Y)
    return sk().to_onnx(model, sk().X[:1].astype(np.float32), **options)


def saved(folder: Path, model: Any) -> Path:
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


def served(folder: Path, model: Any, **options: Any) -> LocalService:
    return LocalService(fs.App(m=fs.models.Onnx(saved(folder, model), **options)))


def schemas(service: LocalService) -> tuple[dict[str, str], dict[str, str]]:
    _, spec = service.method("m", "predict")
    assert spec.input_schema is not None and spec.output_schema is not None
    sides = [pa.ipc.read_schema(pa.py_buffer(each)) for each in (spec.input_schema, spec.output_schema)]
    taken, given = [{field.name: str(field.type).replace("item: ", "") for field in side} for side in sides]
    return taken, given


def test_a_classifier_over_the_data_plane_gives_what_it_gives_elsewhere(tmp_path: Path) -> None:
    path = saved(tmp_path, classifier(options={"zipmap": False}))
    expected = sk().LogisticRegression(max_iter=500).fit(sk().X.astype(np.float32), sk().Y).predict(sk().X)
    with plane(fs.models.Onnx(path).bind()) as running:
        flat = pa.array(sk().X.astype(np.float32).ravel())
        rows = pa.record_batch({"X": pa.FixedSizeListArray.from_arrays(flat, 4)})
        for part, wanted in ((rows.slice(60, 1), expected[60:61]), (rows, expected)):
            got = running.call("predict", part)[0].to_pydict()
            assert got["label"] == wanted.tolist()
            assert np.allclose(np.sum(got["probabilities"], axis=1), 1)


def test_a_map_in_each_row_is_a_column_for_each_key(tmp_path: Path) -> None:
    with served(tmp_path, classifier()) as service:
        given = {"output_label": "int64", "p_0": "float", "p_1": "float", "p_2": "float"}
        assert schemas(service) == ({"X": "fixed_size_list<float>[4]"}, given)
        got = service.run("m", "predict", {"X": [[5.1, 3.5, 1.4, 0.2], [6.0, 3.0, 5.0, 1.8]]}).to_pydict()
        assert got["output_label"] == [0, 2] and got["p_0"][0] > 0.9


def test_features_are_the_names_of_what_one_input_holds(tmp_path: Path) -> None:
    with served(tmp_path, classifier(), features=["a", "b", "c", "d"]) as service:
        assert schemas(service)[0] == dict.fromkeys("abcd", "float")
        got = service.run("m", "predict", {"a": [5.1], "b": [3.5], "c": [1.4], "d": [0.2]})
        assert got.column("output_label").to_pylist() == [0]
    for names in ([], "abcd", ["a", "a"]):
        with pytest.raises(ConfigError, match="features are different names"):
            fs.models.Onnx("m.onnx", features=names)
    with pytest.raises(ConfigError, match=r"features are 2 names, of one input \[N, 2\]; not X \['N', 4\]"):
        served(tmp_path, classifier(), features=["a", "b"])


def test_columns_of_several_types_and_nulls(tmp_path: Path) -> None:
    with served(tmp_path, columns()) as service:
        assert schemas(service) == ({"a": "float", "b": "float", "word": "string"}, {"sum": "float", "same": "string"})
        got = service.run("m", "predict", {"a": [1, None], "b": [2.5, 1.0], "word": ["x", "ü"]}).to_pydict()
        assert got["sum"][0] == 3.5 and np.isnan(got["sum"][1]) and got["same"] == ["x", "ü"]
        with pytest.raises(InvalidArgument, match="value 1 of column 'word' is null; string has no value for it"):
            service.run("m", "predict", {"a": [1, 2], "b": [1, 2], "word": ["x", None]})


def test_rows_of_different_lengths_come_back_in_order(tmp_path: Path) -> None:
    with served(tmp_path, sums()) as service:
        assert schemas(service) == ({"ids": "list<int64>"}, {"sum": "int64", "each": "list<int64>"})
        rows = [[1, 2], [3], [], [4, 5], [9, 9, 9], [7]]
        got = service.run("m", "predict", {"ids": rows}).to_pydict()
        assert got == {"sum": [sum(row) for row in rows], "each": rows}
        for bad in ([[1, None]], [None]):
            with pytest.raises(InvalidArgument, match="null"):
                service.run("m", "predict", pa.record_batch({"ids": pa.array(bad, pa.list_(pa.int64()))}))


@pytest.mark.parametrize(("rows", "shape"), [(1, (3,)), (4, (2, 2)), ("N", (2, 3, 2)), ("N", (1,))])
@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_a_model_takes_as_many_rows_at_a_time_as_it_was_made_for(
    tmp_path: Path, rows: Any, shape: tuple[int, ...], count: int
) -> None:
    values = np.arange(count * np.prod(shape), dtype=np.float64).reshape(count, *shape)
    given = values.reshape(count).tolist() if shape == (1,) else values.tolist()
    expected = (values**2).reshape(count).tolist() if shape == (1,) else (values**2).tolist()
    with served(tmp_path, square(rows, *shape, kind=DOUBLE)) as service:
        assert service.run("m", "predict", {"x": given}).to_pydict() == {"y": expected}


def test_slices_of_lists_are_the_rows_that_they_are(tmp_path: Path) -> None:
    with plane(fs.models.Onnx(saved(tmp_path, square("N", 2))).bind()) as running:
        whole = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(20, dtype=np.float32)), 2)
        got = running.call("predict", pa.record_batch({"x": whole.slice(3, 2)}))[0].to_pydict()
        assert got == {"y": [[36.0, 49.0], [64.0, 81.0]]}
        empty = running.call("predict", pa.record_batch({"x": whole.slice(0, 0)}))
        assert sum(batch.num_rows for batch in empty) == 0


def test_rows_of_the_wrong_shape_are_their_senders_errors(tmp_path: Path) -> None:
    with served(tmp_path, square("N", 3)) as service:
        for bad in ([[1.0, 2.0]], [[1.0, 2.0, 3.0, 4.0]], [1.0], [["a", "b", "c"]]):
            with pytest.raises(SchemaMismatch, match="x"):
                service.run("m", "predict", {"x": bad})
        whole = pa.FixedSizeListArray.from_arrays(
            pa.array([1, 2, 3, 4, 5, 6], pa.float32()), 3, mask=pa.array([False, True])
        )
        with pytest.raises(InvalidArgument, match="a list of column 'x' is null"):
            service.run("m", "predict", pa.record_batch({"x": whole}))


@pytest.mark.parametrize("part_bytes", [1, 7, 1 << 20])
def test_all_files_of_weights_are_found_wherever_a_file_of_parts_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part_bytes: int
) -> None:
    monkeypatch.setattr("flightserve.models.onnx_models._PART_BYTES", part_bytes)
    weights = [numpy_helper.from_array(np.full((3, 3), n, np.float32), f"{'w' * 130}{n}") for n in range(2)]
    nodes = [helper.make_node("MatMul", ["x", weights[0].name], ["z"])]
    nodes.append(helper.make_node("MatMul", ["z", weights[1].name], ["y"]))
    model = made(nodes, [value("x", FLOAT, ["N", 3])], [value("y", FLOAT, ["N", 3])], weights)
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, all_tensors_to_one_file=False, size_threshold=10)
    with open(path, "rb") as file:
        found = external_files(file)
    assert len(found) == 2
    assert all((tmp_path / name).is_file() for name in found)


def test_weights_that_lie_beside_the_file_are_found(tmp_path: Path) -> None:
    def model_of(weight: float) -> Any:
        weights = numpy_helper.from_array(np.full((3, 500), weight, np.float32), "weights")
        node = helper.make_node("MatMul", ["x", "weights"], ["y"])
        return made([node], [value("x", FLOAT, ["N", 3])], [value("y", FLOAT, ["N", 500])], [weights])

    path = tmp_path / "model.onnx"
    onnx.save(model_of(2), path, save_as_external_data=True, location="weights.bin", size_threshold=10)
    with LocalService(fs.App(m=fs.models.Onnx(path))) as service:
        assert service.run("m", "predict", {"x": [[1, 2, 3]]}).column("y")[0].as_py() == [12.0] * 500
    before = fs.models.Onnx(path).bind()
    spec = spec_of(before)
    onnx.save(model_of(3), path, save_as_external_data=True, location="weights.bin", size_threshold=10)
    assert spec_of(fs.models.Onnx(path).bind()).version != spec.version
    with pytest.raises(ConfigError, match=r"model\.onnx is not the file any more that was deployed; deploy it again"):
        before.make()
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ConfigError, match=r"model\.onnx cannot be loaded by onnxruntime"):
        spec_of(fs.models.Onnx(path).bind())


# ---- what cannot be served


def of_the_future() -> Any:
    model = columns()
    model.ir_version = 99
    return model


def mean() -> Any:
    node = helper.make_node("ReduceMean", ["x"], ["y"], keepdims=0)
    return made([node], [value("x", FLOAT, ["N", 3])], [value("y", FLOAT, [])])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "No graph was found"),
        (b"hello", "cannot be loaded by onnxruntime"),
        (columns().SerializeToString()[:40], "protobuf parsing failed"),
        (
            of_the_future().SerializeToString(),
            "model.onnx cannot be loaded by onnxruntime .*: Unsupported model IR version",
        ),
        (mean().SerializeToString(), r"output 'y' has the shape \[\] for 2 rows, and not a row for each"),
        (square("N", 3, 0).SerializeToString(), "input 'x' has the shape .* none is 0|cannot be loaded"),
        (square("N", 3, kind=TensorProto.BFLOAT16).SerializeToString(), "bfloat16.*is not served|cannot be loaded"),
    ],
)
def test_files_that_cannot_be_served_are_one_line_before_anything_starts(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ConfigError, match=message) as raised:
        spec_of(fs.models.Onnx(tmp_path / "model.onnx").bind())
    assert "\n" not in raised.value.message and "onnxruntime_src" not in raised.value.message


def test_a_gpu_that_the_library_cannot_use_and_a_library_that_is_missing_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="this onnxruntime has no CUDA: install onnxruntime-gpu"):
        served(tmp_path, columns(), num_gpus=1)
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"is not installed; .* pip install 'flightserve\[onnx\]'"):
        served(tmp_path, columns())

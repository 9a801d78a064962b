"""Modules of PyTorch. It is large, and not among what the tests install: these run where it is there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.declare import spec_of
from flightserve.errors import ConfigError, InvalidArgument
from flightserve.testing import LocalService
from tests.plane import plane

LIST = pa.list_(pa.float32(), 3)


def test_options_that_make_no_sense_are_refused_before_the_file_is_looked_at() -> None:
    for options, message in (
        ({}, "give inputs="),
        ({"inputs": {"x": "float32"}, "features": ["a"]}, "give inputs="),
        ({"inputs": {}}, "names nothing"),
        ({"inputs": {"x": "floaty"}}, "inputs: .*floaty"),
        ({"features": ["a", "a"]}, "features are different names"),
        ({"inputs": {"x": "float32"}, "module": 3}, "cannot be called"),
    ):
        with pytest.raises(ConfigError, match=message):
            fs.models.Torch("m.pt", **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"takes a file that ends in \.pt, \.pth, \.ts, \.pt2"):
        fs.models.Torch("m.onnx", inputs={"x": "float32"})


def test_a_library_that_is_missing_is_named_with_the_extra_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.pt").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigError, match=r"torch is not installed; .* pip install 'flightserve\[torch\]'"):
        spec_of(fs.models.Torch(tmp_path / "m.pt", inputs={"x": "float32"}).bind())


class Made:
    """Modules, and files of them."""

    def __init__(self, torch: Any, folder: Path) -> None:
        self.torch, self.folder = torch, folder

    def net(self, *layers: Any) -> Any:
        self.torch.manual_seed(0)
        return self.torch.nn.Sequential(*(layers or (self.torch.nn.Linear(3, 2),)))

    def script(self, module: Any, name: str = "m.pt") -> Path:
        path = self.folder / name
        self.torch.jit.script(module).save(str(path))
        return path


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(pytest.importorskip("torch"), tmp_path)


def served(path: Path, **options: Any) -> LocalService:
    return LocalService(fs.App(m=fs.models.Torch(path, **options)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
class TestModules:
    def test_torchscript_over_the_data_plane_gives_what_it_gives_elsewhere(self, made: Made) -> None:
        net = made.net()
        path = made.script(net)
        values = np.random.default_rng(0).random((50, 3), np.float32)
        expected = net(made.torch.from_numpy(values)).detach().numpy()
        with plane(fs.models.Torch(path, inputs={"x": LIST}).bind()) as running:
            rows = pa.record_batch({"x": pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 3)})
            for part, wanted in ((rows, expected), (rows.slice(7, 2), expected[7:9])):
                got = running.call("predict", part)[0].to_pydict()
                assert np.allclose(got["output"], wanted)

    def test_features_are_columns(self, made: Made) -> None:
        net = made.net()
        with served(made.script(net), features=["a", "b", "c"], outputs=["score"]) as service:
            got = service.run("m", "predict", {"a": [0.1], "b": [0.2], "c": [0.3]})
            wanted = net(made.torch.tensor([[0.1, 0.2, 0.3]])).detach().numpy()
            assert np.allclose(got["score"].to_pylist(), wanted)

    def test_weights_of_a_module_and_an_exported_program(self, made: Made) -> None:
        torch, net = made.torch, made.net()
        torch.save(net.state_dict(), made.folder / "w.pth")
        batch = torch.export.Dim("batch")
        program = torch.export.export(net, (torch.zeros(2, 3),), dynamic_shapes=({0: batch},))
        torch.export.save(program, made.folder / "p.pt2")
        wanted = net(torch.ones(5, 3)).detach().numpy()
        for path, options in ((made.folder / "w.pth", {"module": made.net}), (made.folder / "p.pt2", {})):
            with served(path, inputs={"x": LIST}, **options) as service:
                got = service.run("m", "predict", {"x": [[1, 1, 1]] * 5})
                assert np.allclose(got["output"].to_pylist(), wanted)

    def test_a_module_that_writes_in_its_input_gets_copies(self, made: Made) -> None:
        path = made.script(made.net(made.torch.nn.ReLU(inplace=True)))
        with plane(fs.models.Torch(path, inputs={"x": LIST}).bind()) as running:
            rows = pa.record_batch({"x": pa.array([[-1, 2, -3]] * 300, LIST)})
            assert running.call("predict", rows)[0].to_pydict()["output"][0] == [0, 2, 0]
            assert running.targets[0]._copies

    def test_several_outputs_rows_of_any_length_and_nulls(self, made: Made) -> None:
        class Sums(made.torch.nn.Module):  # type: ignore[misc]
            def forward(self, ids, weight):  # type: ignore[no-untyped-def]
                return {"sum": ids.sum(1), "each": ids * weight.unsqueeze(1)}

        torch = made.torch
        path = made.folder / "t.pt"
        torch.jit.trace(Sums(), (torch.ones(2, 2, dtype=torch.int64), torch.ones(2)), strict=False).save(str(path))
        with served(path, inputs={"ids": pa.list_(pa.int64()), "weight": "float32"}) as service:
            got = service.run("m", "predict", {"ids": [[1, 2], [3], [4, 5]], "weight": [1.0, 2.0, 3.0]}).to_pydict()
            assert got == {"sum": [3, 3, 9], "each": [[1.0, 2.0], [6.0], [12.0, 15.0]]}
            with pytest.raises(InvalidArgument, match="null"):
                service.run("m", "predict", {"ids": [[1, None]], "weight": [1.0]})

    def test_files_that_cannot_be_served_are_one_line(self, made: Made) -> None:
        torch = made.torch
        torch.save(made.net(), made.folder / "whole.pt")
        torch.save(made.net(torch.nn.Linear(4, 2)).state_dict(), made.folder / "other.pth")
        (made.folder / "empty.pt").write_bytes(b"")
        (made.folder / "junk.pt2").write_bytes(b"junk")
        for name, options, message in (
            ("none.pt", {}, "there is no file"),
            ("empty.pt", {}, r"empty\.pt: it cannot be loaded"),
            ("junk.pt2", {}, r"junk\.pt2: it cannot be loaded"),
            ("whole.pt", {}, r"whole\.pt: it cannot be loaded"),
            ("whole.pt", {"module": made.net}, r"whole\.pt: it cannot be loaded: UnpicklingError: Weights only"),
            ("other.pth", {"module": made.net}, r"other\.pth: it cannot be loaded: RuntimeError: .*size mismatch"),
        ):
            with pytest.raises(ConfigError, match=message) as raised:
                spec_of(fs.models.Torch(made.folder / name, inputs={"x": LIST}, **options).bind())
            assert "\n" not in raised.value.message
        path = made.script(made.net())
        for options, message in (
            ({"inputs": {"x": pa.list_(pa.float32(), 9)}}, "it fails on a sample; are its inputs as declared"),
            ({"inputs": {"x": LIST}, "outputs": ["a", "b"]}, "outputs are 2 names, and the module gives 1 tensors"),
            ({"inputs": {"x": "string"}}, "'x' is string, which is not served"),
        ):
            with pytest.raises(ConfigError, match=message):
                spec_of(fs.models.Torch(path, **options).bind())

    def test_a_gpu_that_is_not_there_is_said(self, made: Made) -> None:
        if made.torch.cuda.is_available():
            pytest.skip("there is one")
        with pytest.raises(ConfigError, match="PyTorch finds none here"):
            spec_of(fs.models.Torch(made.script(made.net()), inputs={"x": LIST}, num_gpus=1).bind())

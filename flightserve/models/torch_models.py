"""Models of PyTorch: TorchScript, exported programs, or a module of the user's with weights from a file.

Nothing in a file says what a module takes, so that is declared; what it gives is seen on a sample. None of the three
ways runs code that a file brings along: TorchScript and exported programs are run by PyTorch itself, and of weights
tensors alone are read (`weights_only`).

The rows of a request lie in memory that cannot be written. A module that writes in its inputs (an in-place ReLU in
front) gets copies of them; any other reads them where they lie.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from flightserve.contracts.hosting import Host
from flightserve.errors import ConfigError
from flightserve.models.serving import missing
from flightserve.models.tensor_models import Feeds, TensorReplica
from flightserve.models.tensors import TYPES, Tensor, tensor


class TorchReplica(TensorReplica):
    """One module in one replica."""

    def _load(self) -> None:
        try:
            import torch
        except ImportError as error:
            raise missing("torch", "torch", error) from error
        self._torch = torch
        self._device = self._chosen_device()
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        self._module = self.attempt("it cannot be loaded", self._loaded)
        self._inputs = [_input(name, kind) for name, kind in self.served.inputs.items()]
        try:
            self._take_features()
        except ConfigError as error:
            raise ConfigError(f"{self.name}: {error.message}") from error
        planned = self.served.description
        # The outputs, and whether it writes in its inputs.
        seen: tuple[list[Any], bool] = self._seen() if planned is None else planned.layout
        self._outputs, self._copies = seen

    def flightserve_hosted(self, host: Host) -> None:
        """PyTorch has threads of its own."""
        super().flightserve_hosted(host)
        if host.own_process:
            self._torch.set_num_threads(self.threads)

    def _chosen_device(self) -> Any:
        if not self.options.num_gpus:
            return self._torch.device("cpu")
        if not self._torch.cuda.is_available():
            raise ConfigError(
                f"{self.name} was to run on a GPU (num_gpus={self.options.num_gpus:g}), and PyTorch finds none here; "
                "leave num_gpus out, or install a PyTorch with CUDA where there is one"
            )
        return self._torch.device("cuda")

    def _loaded(self) -> Any:
        torch, make = self._torch, self.served.module
        with self.served.file.open() as file:
            if make is not None:
                module = make()
                module.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
            elif self.name.endswith(".pt2"):
                # Exported in the mode that it is to run in.
                return torch.export.load(file).module().to(self._device)
            else:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)
                    module = torch.jit.load(file, map_location="cpu")
        return module.to(self._device).eval()

    def _about(self) -> str:
        return f"{getattr(self._module, 'original_name', type(self._module).__name__)} of PyTorch"

    # ---- what it gives

    def _seen(self) -> tuple[list[Any], bool]:
        """The outputs on a sample, and whether the module wrote in it."""
        torch = self._torch
        tensors = [torch.from_numpy(values.copy()).to(self._device) for values in self._sample_feeds().values()]
        with torch.no_grad():
            given = self.attempt("it fails on a sample; are its inputs as declared?", self._module, *tensors)
        written = any(each._version for each in tensors)
        ragged = any(each.ragged for each in self._inputs) and not self.served.features
        names, values = _named(given, self.served.outputs)
        found: list[Any] = []
        for name, each in zip(names, values, strict=True):
            self._check_rows(name, each)
            array = self._array(each)
            shape = [None, *array.shape[2:]] if ragged and array.ndim > 1 else list(array.shape[1:])
            found.append(tensor(name, TYPES.get(_type_name(array)), str(each.dtype), shape))
        return found, written

    def _describe(self) -> Any:
        about = super()._describe()
        return about._replace(layout=(self._outputs, self._copies))

    def _array(self, values: Any) -> Any:
        values = values.detach().to("cpu")
        if values.dtype is self._torch.bfloat16:
            values = values.float()
        return values.numpy()

    # ---- the method

    def _run(self, feeds: Feeds, rows: int) -> Sequence[Any]:
        torch = self._torch
        tensors = [torch.from_numpy(values.copy() if self._copies else values) for values in feeds.values()]
        with torch.inference_mode():
            given = self._module(*[each.to(self._device) for each in tensors])
        return [self._array(each) for each in _named(given, self.served.outputs)[1]]


def _input(name: str, kind: pa.DataType) -> Tensor:
    """A column's type as the tensor that it becomes. Raises ConfigError."""
    shape: list[int | None] = []
    inner = kind
    while pt.is_fixed_size_list(inner) or pt.is_list(inner):
        shape.append(inner.list_size if pt.is_fixed_size_list(inner) else None)
        inner = inner.value_type
    known = inner if inner in TYPES.values() and not pt.is_string(inner) else None
    return tensor(name, known, str(kind), shape)


def _named(given: Any, names: Sequence[str] | None) -> tuple[list[str], list[Any]]:
    """What a module gave, by name: one tensor, several, or a dict of them. Raises ConfigError for anything else."""
    if isinstance(given, Mapping):
        return [str(name) for name in given], list(given.values())
    values = list(given) if isinstance(given, tuple | list) else [given]
    if names is None:
        names = ["output"] if len(values) == 1 else [f"output_{place}" for place in range(len(values))]
    if len(names) != len(values):
        raise ConfigError(f"outputs are {len(names)} names, and the module gives {len(values)} tensors")
    if wrong := [each for each in values if not hasattr(each, "detach")]:
        raise ConfigError(f"the module gives an object of {type(wrong[0]).__name__}; outputs are tensors")
    return list(names), values


def _type_name(array: Any) -> str:
    return {"float32": "float", "float64": "double"}.get(str(array.dtype), str(array.dtype))

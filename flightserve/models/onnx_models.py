"""Models in the ONNX format, run by ONNX Runtime.

The session says names, types and shapes. Rows are the first dimension of every input and output. A model whose first
dimension is a number takes so many rows at a time; the last of them are filled up, and what they give is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, BinaryIO, Final

import numpy as np
import pyarrow as pa

from flightserve.errors import ConfigError
from flightserve.models.files import ModelFile
from flightserve.models.serving import REASON_CHARACTERS_MAX, SAMPLE_ROWS, missing
from flightserve.models.tensor_models import Feeds, TensorReplica
from flightserve.models.tensors import TYPES, Tensor, tensor

CUDA: Final = "CUDAExecutionProvider"
CPU: Final = "CPUExecutionProvider"
# What a converter of classifiers gives beside the labels: a map from class to probability in each row.
_MAPS: Final = "seq(map("
# Where in its own source it found a fault, and its number.
_PLACE: Final = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : |/\S*onnxruntime\S*:\d+ .*?\) (?=[A-Z])")

# An entry of a tensor's `external_data`, up to its value's length: key (1), text of 8 bytes, `location`, value (2).
_LOCATION: Final = re.compile(rb"\x0a\x08location\x12([\x01-\x7f]|[\x80-\xff][\x01-\x7f])", re.DOTALL)
_PART_BYTES: Final = 1 << 20
# More than the entry and the longest path that Linux takes.
_NAME_BYTES_MAX: Final = 5000


def external_files(file: BinaryIO) -> list[str]:
    """The files beside a model that hold its weights: what its tensors name as `location`, wherever that stands."""
    found: set[str] = set()
    before = b""
    while part := file.read(_PART_BYTES):
        text = before + part
        for match in _LOCATION.finditer(text):
            length = match[1][0] if len(match[1]) == 1 else match[1][0] % 128 + 128 * match[1][1]
            # One that is cut off here is whole in the next turn.
            if match.end() + length <= len(text):
                found.add(text[match.end() : match.end() + length].decode("utf-8", "replace"))
        before = text[-_NAME_BYTES_MAX:]
    return sorted(found)


class OnnxReplica(TensorReplica):
    """One session in one replica."""

    def _load(self) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise missing("onnxruntime", "onnx", error) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        # Threads that wait for work awake would take the processor from others' replicas.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # What is wrong comes as an exception; its own log would be lines without end.
        options.log_severity_level = 4
        providers = self._providers(onnxruntime.get_available_providers())
        self._session = self._opened(onnxruntime.InferenceSession, self.served.file, options, providers)
        try:
            self._take_inputs()
        except ConfigError as error:
            raise ConfigError(f"{self.name}: input {error.message}") from error
        self._given = self._session.get_outputs()
        planned = self.served.description
        self._outputs: list[Tensor | list[Any]] = self._seen_outputs() if planned is None else planned.layout

    def _providers(self, there: Sequence[str]) -> list[str]:
        if not self.options.num_gpus:
            return [CPU]
        if CUDA not in there:
            raise ConfigError(
                f"{self.name} was to run on a GPU (num_gpus={self.options.num_gpus:g}), and this onnxruntime has no "
                "CUDA: install onnxruntime-gpu in its place, or leave num_gpus out"
            )
        return [CUDA, CPU]

    def _opened(self, make: Any, file: ModelFile, options: Any, providers: list[str]) -> Any:
        """Of the bytes, or, where the weights lie beside the file, by its path."""
        content = file.content()
        try:
            return make(file.path if content is None else content, options, providers=providers)
        except Exception as error:  # of onnxruntime's own kinds, which are in no documented place
            if content is None or not _wants_path(error):
                raise self._not_loaded(error) from error
        file.leave()
        try:
            return make(file.path, options, providers=providers)
        except Exception as error:
            raise self._not_loaded(error) from error

    def _not_loaded(self, error: Exception) -> ConfigError:
        import onnxruntime

        reason = _PLACE.sub("", " ".join(str(error).split()))[:REASON_CHARACTERS_MAX]
        return ConfigError(f"{self.name} cannot be loaded by onnxruntime {onnxruntime.__version__}: {reason}")

    # ---- what it takes and gives

    def _take_inputs(self) -> None:
        """Its inputs as columns, and how many rows it takes at a time (0: any number)."""
        inputs = self._session.get_inputs()
        if not inputs:
            raise ConfigError("is missing: the model takes nothing")
        self._inputs, sizes = [], set()
        for each in inputs:
            if not each.shape:
                raise ConfigError(f"{each.name!r} has no dimension for rows")
            sizes.add(each.shape[0] if isinstance(each.shape[0], int) and each.shape[0] > 0 else 0)
            shape = [size if isinstance(size, int) and size > 0 else None for size in each.shape[1:]]
            self._inputs.append(tensor(each.name, _type_of(each.type), each.type, shape))
        if len(sizes) > 1:
            raise ConfigError(f"dimensions for rows differ: {sorted(sizes)}")
        (self._rows_at_once,) = sizes
        self._take_features()

    def _about(self) -> str:
        made = self._session.get_modelmeta()
        return f"ONNX model by {made.producer_name}" if made.producer_name else "ONNX model"

    def _seen_outputs(self) -> list[Any]:
        """What the outputs are: as far as the model says, and for the rest as a sample shows."""
        results = self.attempt("it fails on a sample", self._run, self._sample_feeds(), SAMPLE_ROWS)
        found: list[Any] = []
        ragged = any(each.ragged for each in self._inputs)
        for each, values in zip(self._given, results, strict=True):
            if each.type.startswith(_MAPS):
                found.append(sorted(values[0]))
                continue
            self._check_rows(each.name, values)
            open_ = ragged and len(each.shape) > 1 and not isinstance(each.shape[1], int)
            shape = [None, *values.shape[2:]] if open_ else list(values.shape[1:])
            found.append(tensor(each.name, _type_of(each.type), each.type, shape))
        return found

    def _run(self, feeds: Feeds, rows: int) -> list[Any]:
        size = self._rows_at_once
        if not size:
            return list(self._session.run(None, dict(feeds)))
        parts = []
        for start in range(0, rows, size):
            part = {name: values[start : start + size] for name, values in feeds.items()}
            parts.append(self._session.run(None, {name: _filled(values, size) for name, values in part.items()}))
        return [_joined([part[place] for part in parts], rows) for place in range(len(parts[0]))]


def _type_of(said: str) -> pa.DataType | None:
    """`tensor(float)` as Arrow has it, None for what is served by no column."""
    return TYPES.get(said.removeprefix("tensor(").removesuffix(")")) if said.startswith("tensor(") else None


def _wants_path(error: Exception) -> bool:
    """The weights lie in a file beside."""
    text = str(error).lower()
    return "external" in text or "model_path" in text


def _filled(values: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    """As many rows as the model takes: the last one again and again."""
    short = size - len(values)
    return np.concatenate([values, np.repeat(values[-1:], short, axis=0)]) if short else values


def _joined(parts: Sequence[Any], rows: int) -> Any:
    if isinstance(parts[0], list):
        return [row for part in parts for row in part][:rows]
    return parts[0][:rows] if len(parts) == 1 else np.concatenate(parts)[:rows]

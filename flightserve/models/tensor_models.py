"""Models of tensors: their rows are the first dimension of each input and output.

What runs them says what the inputs and outputs are (`onnx_models`, `torch_models`); here columns become tensors,
tensors columns, and rows of different lengths run apart.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from flightserve.errors import ConfigError, MethodFailed
from flightserve.models.serving import SAMPLE_ROWS, ModelDescription, ModelReplica
from flightserve.models.tensors import Tensor, lengths, to_array, to_column

# How long a ragged input is in the sample.
SAMPLE_LENGTH: Final = 2

Feeds = Mapping[str, np.ndarray[Any, Any]]


class TensorReplica(ModelReplica):
    """One such model in one replica. Whoever loads it sets what is declared here."""

    # An output is a tensor, or a map in each row, which is a column for each of its keys.
    _inputs: list[Tensor]
    _outputs: list[Tensor | list[Any]]
    # The names of what the only input holds, where these are the columns.
    _features: list[str]

    @abstractmethod
    def _run(self, feeds: Feeds, rows: int) -> Sequence[Any]:
        """The outputs, in their order."""

    @abstractmethod
    def _about(self) -> str:
        """What it is, for people."""

    # ---- what it takes and gives

    def _take_features(self) -> None:
        """Raises ConfigError where the features are not those of the only input."""
        self._features = list(self.served.features or ())
        one = self._inputs[0]
        if self._features and (len(self._inputs) > 1 or one.shape not in ((None,), (len(self._features),))):
            shapes = ", ".join(f"{each.name} {['N', *each.shape]}" for each in self._inputs)
            count = len(self._features)
            raise ConfigError(f"features are {count} names, of one input [N, {count}]; not {shapes}")

    def _sample(self) -> pa.RecordBatch:
        columns = []
        for each in self._inputs:
            sizes = [SAMPLE_LENGTH if size is None else size for size in each.shape]
            if each.ragged and self._features:
                sizes = [len(self._features)]
            kind = "U1" if pt.is_string(each.type) else each.type.to_pandas_dtype()
            values = np.full((SAMPLE_ROWS, *sizes), "a") if kind == "U1" else np.zeros((SAMPLE_ROWS, *sizes), kind)
            columns.append(to_column(values, each))
        return pa.RecordBatch.from_arrays(columns, schema=pa.schema([each.field for each in self._inputs]))

    def _sample_feeds(self) -> Feeds:
        sample = self._sample()
        return {each.name: to_array(sample.column(each.name), each) for each in self._inputs}

    def _describe(self) -> ModelDescription:
        sample = self._sample()
        if self._features:
            fields = [pa.field(name, self._inputs[0].type) for name in self._features]
            zeros = [pa.array(np.zeros(SAMPLE_ROWS), each.type) for each in fields]
            sample = pa.RecordBatch.from_arrays(zeros, schema=pa.schema(fields))
        outputs: list[pa.Field] = []
        for about in self._outputs:
            outputs += (
                [about.field] if isinstance(about, Tensor) else [pa.field(_p(key), pa.float32()) for key in about]
            )
        names = [each.name for each in outputs]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise ConfigError(f"{self.name}: several outputs are called {sorted(repeated)[0]!r}")
        doc = f"{self._about()}, from {self.name}."
        return ModelDescription(sample.schema, {"predict": pa.schema(outputs)}, sample, doc, self._outputs)

    def _check_rows(self, name: str, values: Any) -> None:
        """Raises ConfigError for an output of the sample that has not a row for each."""
        if getattr(values, "ndim", 0) == 0 or len(values) != SAMPLE_ROWS:
            shape = list(getattr(values, "shape", ()))
            raise ConfigError(
                f"{self.name}: output {name!r} has the shape {shape} for {SAMPLE_ROWS} rows, and not a row for each"
            )

    # ---- the method

    def predict(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """What the model makes of each row."""
        schema = self.description.methods["predict"]
        if not batch.num_rows:
            return pa.RecordBatch.from_arrays([pa.array([], each.type) for each in schema], schema=schema)
        if self._features:
            matrix = batch.to_tensor(null_to_nan=pt.is_floating(self._inputs[0].type)).to_numpy()
            return self._columns(self._run({self._inputs[0].name: matrix}, batch.num_rows), batch.num_rows)
        groups = list(self._groups(batch))
        if len(groups) == 1:
            return self._one(batch)
        parts = [self._one(batch.take(pa.array(places))) for places in groups]
        order = np.argsort(np.concatenate(groups), kind="stable")
        return pa.Table.from_batches(parts).combine_chunks().to_batches()[0].take(pa.array(order))

    def _groups(self, batch: pa.RecordBatch) -> Iterator[np.ndarray[Any, Any]]:
        """The rows, by their lengths: those of one length make tensors."""
        ragged = [lengths(batch.column(each.name), each.name) for each in self._inputs if each.ragged]
        if not ragged or all((each == each[0]).all() for each in ragged):
            yield np.arange(batch.num_rows)
            return
        _, group = np.unique(np.stack(ragged, axis=1), axis=0, return_inverse=True)
        for number in range(int(group.max()) + 1):
            yield np.flatnonzero(group == number)

    def _one(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        feeds = {each.name: to_array(batch.column(each.name), each) for each in self._inputs}
        return self._columns(self._run(feeds, batch.num_rows), batch.num_rows)

    def _columns(self, results: Sequence[Any], rows: int) -> pa.RecordBatch:
        arrays: list[pa.Array] = []
        for about, values in zip(self._outputs, results, strict=True):
            if not isinstance(about, Tensor):
                arrays += [pa.array([row.get(key) for row in values], pa.float32()) for key in about]
                continue
            if len(values) != rows:
                raise MethodFailed(f"output {about.name!r} has {len(values)} rows for {rows} that went in")
            arrays.append(to_column(values, about))
        return pa.RecordBatch.from_arrays(arrays, schema=self.description.methods["predict"])


def _p(key: object) -> str:
    return f"p_{key}"

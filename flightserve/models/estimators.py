"""Estimators of scikit-learn, and of libraries that are like it.

Rows become what the estimator was fitted with: one matrix, which Arrow fills in one call, or, where it picks columns by
their names or has features that are no numbers, a data frame. What the features are is read off the estimator
(`features`).
"""

from __future__ import annotations

import importlib.util
import pickle
import warnings
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from flightserve.errors import ConfigError, FlightserveError, InvalidArgument
from flightserve.models.features import Feature, features_of, picks_by_name
from flightserve.models.serving import (
    SAMPLE_ROWS,
    ModelDescription,
    ModelReplica,
    log,
    missing,
    reason_of,
)

# From so many rows on a matrix is filled by columns, which is seven times as fast; below, an estimator that wants rows
# would turn it around.
BY_COLUMNS_ROWS: Final = 512
METHODS: Final = ("predict", "predict_proba")
CLASSES_MAX: Final = 10_000

_PICKLE: Final = (
    "%s is a pickle, which runs code of whoever wrote it when it is read: serve files of your own only, and say so "
    "(trusted=True), or save the model by skops.io.dump as a .skops file"
)


class SklearnReplica(ModelReplica):
    """One estimator in one replica."""

    def _load(self) -> None:
        try:
            import sklearn.base
        except ImportError as error:
            raise missing("scikit-learn", "sklearn", error) from error
        read = _read_skops if self.name.endswith(".skops") else _read_pickle
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            self._model = self.attempt("it cannot be read", read, self)
        self._other_version = self._check_version(said, sklearn.__version__)
        if not any(hasattr(self._model, name) for name in (*METHODS, "transform")):
            raise ConfigError(f"{self.name} holds {_kind(self._model)}; it is to hold a fitted estimator")
        if isinstance(self._model, sklearn.base.BaseEstimator) and not _is_fitted(self._model):
            raise ConfigError(
                f"{self.name} holds {_kind(self._model)} that is not fitted; call its fit() before it is saved"
            )
        # An estimator that was fitted with a frame says of every matrix that its columns have no names.
        warnings.filterwarnings("ignore", message="X does not have valid feature names")
        _limit_jobs(self._model, self.threads)
        self._rows = self._way_of_rows()

    def tell(self) -> None:
        if not self.name.endswith(".skops") and self.served.trusted is not True:
            log.warning(_PICKLE, self.name)
        if self._other_version:
            log.warning("%s", self._other_version)

    def _check_version(self, said: list[warnings.WarningMessage], installed: str) -> str:
        """What is to be said of the version that saved it, "" where it is this one."""
        saved = {str(getattr(each.message, "original_sklearn_version", "")) for each in said} - {""}
        if not saved:
            return ""
        about = f"{self.name} was saved by scikit-learn {', '.join(sorted(saved))}, and {installed} is installed"
        if not self.served.any_version:
            raise ConfigError(
                f"{about}: what it predicts may differ. Save it again, install scikit-learn=={min(saved)}, or serve "
                "it all the same, by any_version=True"
            )
        return about

    # ---- what it takes and gives

    def _describe(self) -> ModelDescription:
        columns = [pa.array([each.example] * SAMPLE_ROWS, each.type) for each in self._features]
        schema = pa.schema([pa.field(each.name, each.type) for each in self._features])
        sample = pa.RecordBatch.from_arrays(columns, schema=schema)
        rows = self.attempt("a sample row cannot be made", self._rows, sample)
        names = [name for name in METHODS if hasattr(self._model, name)] or ["transform"]
        methods = {name: self.attempt(self._failed(name, sample), self._output, name, rows) for name in names}
        doc = f"{_kind(self._model)}, from {self.name}."
        return ModelDescription(schema, {name: given for name, given in methods.items() if given}, sample, doc)

    def _failed(self, name: str, sample: pa.RecordBatch) -> str:
        return (
            f"{name} fails on the row {sample.slice(0, 1).to_pylist()[0]}; where its types are wrong, give them, as in "
            "features={'note': 'string'}"
        )

    def _output(self, name: str, rows: Any) -> pa.Schema | None:
        values = getattr(self._model, name)(rows)
        if name == "predict_proba" and isinstance(values, list):
            # Of several outputs: a list of matrices.
            return None
        values = _dense(values)
        if len(values) != SAMPLE_ROWS or values.ndim not in (1, 2):
            raise ConfigError(
                f"{self.name}: {name} gives {values.shape} for {SAMPLE_ROWS} rows, and not a row for each"
            )
        width = 1 if values.ndim == 1 else values.shape[1]
        if width > CLASSES_MAX:
            raise ConfigError(f"{self.name}: {name} gives {width} columns; at most {CLASSES_MAX} are served")
        kind = pa.array(values[:, 0] if values.ndim == 2 else values).type
        return pa.schema([pa.field(each, kind) for each in self._names(name, width, values.ndim)])

    def _names(self, name: str, width: int, dimensions: int) -> list[str]:
        if name == "predict":
            return ["prediction"] if dimensions == 1 else [f"prediction_{each}" for each in range(width)]
        if name == "predict_proba":
            return [f"p_{each}" for each in getattr(self._model, "classes_", range(width))]
        try:
            return [str(each) for each in self._model.get_feature_names_out()]
        except Exception:  # what a transformer of anybody's says of itself, or does not
            return [f"x{each}" for each in range(width)]

    def _way_of_rows(self) -> Callable[[pa.RecordBatch], Any]:
        """How rows become what the estimator takes."""
        try:
            self._features: list[Feature] = features_of(self._model, self.served.features)
        except ConfigError as error:
            raise ConfigError(f"{self.name}: {error.message}") from error
        numbers = all(pt.is_integer(each.type) or pt.is_floating(each.type) for each in self._features)
        if not hasattr(self._model, "n_features_in_") and len(self._features) == 1:
            # Of texts: one after another, not in a matrix.
            return _only_column
        if numbers and not picks_by_name(self._model):
            return _matrix
        if not hasattr(self._model, "feature_names_in_"):
            return _objects
        for library, make in (("pandas", _pandas), ("polars", _polars)):
            if importlib.util.find_spec(library):
                return make
        raise ConfigError(f"{self.name} was fitted with a data frame: pip install 'flightserve[pandas]' (or polars)")

    # ---- methods

    def predict(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """What the estimator predicts for each row."""
        return self._run("predict", batch)

    def predict_proba(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The probability of each class, for each row."""
        return self._run("predict_proba", batch)

    def transform(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """What the transformer makes of each row."""
        return self._run("transform", batch)

    def _run(self, name: str, batch: pa.RecordBatch) -> pa.RecordBatch:
        schema = self.description.methods[name]
        if not batch.num_rows:
            return _empty(schema)
        try:
            values = _dense(getattr(self._model, name)(self._rows(batch)))
        except ValueError as error:
            raise _of_the_rows(error, batch) or error from error
        columns = [values] if values.ndim == 1 else list(values.T)
        arrays = [pa.array(each, field.type) for each, field in zip(columns, schema, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)


# ---- files


def _read_skops(replica: SklearnReplica) -> Any:
    try:
        import skops.io
    except ImportError as error:
        raise missing("skops", "sklearn", error) from error
    with replica.served.file.open() as file:
        content = file.read()
    unknown = skops.io.get_untrusted_types(data=content)
    trusted = replica.served.trusted
    allowed = unknown if trusted is True else [each for each in unknown if each in (trusted or ())]
    if refused := sorted(set(unknown) - set(allowed)):
        raise ConfigError(
            f"{replica.name} has types that skops does not know: {', '.join(refused)}; if you trust them, name them: "
            f"trusted={refused!r}"
        )
    return skops.io.loads(content, trusted=allowed)


def _read_pickle(replica: SklearnReplica) -> Any:
    try:
        import joblib
    except ImportError as error:
        raise missing("joblib", "sklearn", error) from error
    try:
        with replica.served.file.open() as file:
            return joblib.load(file) if replica.name.endswith(".joblib") else pickle.load(file)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{replica.name} needs the module {error.name!r}, which is not installed here") from error
    except AttributeError as error:
        # "Can't get attribute 'Scaler' on <module '__main__' ...>"
        hint = "; what a model refers to has to be in a module that can be imported here"
        raise ConfigError(f"{replica.name} cannot be read: {reason_of(error).partition(' from ')[0]}{hint}") from error


def _is_fitted(model: Any) -> bool:
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(model)
    except NotFittedError:
        return False
    except TypeError:
        # It tells nothing of that; a sample will.
        return True
    return True


def _kind(model: Any) -> str:
    return type(model).__name__


def _limit_jobs(model: Any, threads: int) -> None:
    """What would run on as many threads as there are processors, runs on those of the replica."""
    for each in (model, getattr(model, "best_estimator_", model)):
        parameters = each.get_params(deep=True) if hasattr(each, "get_params") else {}
        for name, jobs in parameters.items():
            if name.rpartition("__")[2] == "n_jobs" and jobs is not None:
                each.set_params(**{name: min(threads, jobs) if jobs > 0 else threads})


# ---- rows


def _matrix(batch: pa.RecordBatch) -> Any:
    rows = batch.num_rows
    if batch.num_columns == 1 and not batch.column(0).null_count:
        return batch.column(0).to_numpy().reshape(rows, 1)
    return batch.to_tensor(null_to_nan=True, row_major=rows < BY_COLUMNS_ROWS).to_numpy()


def _objects(batch: pa.RecordBatch) -> Any:
    return np.column_stack([column.to_numpy(zero_copy_only=False).astype(object) for column in batch.columns])


def _only_column(batch: pa.RecordBatch) -> Any:
    return batch.column(0).to_numpy(zero_copy_only=False)


def _pandas(batch: pa.RecordBatch) -> Any:
    return batch.to_pandas()


def _polars(batch: pa.RecordBatch) -> Any:
    import polars as pl

    return pl.from_arrow(batch)


def _dense(values: Any) -> Any:
    """As an array: a sparse matrix is filled, a frame is its values."""
    if hasattr(values, "toarray"):
        return values.toarray()
    return np.asarray(values)


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], each.type) for each in schema], schema=schema)


def _of_the_rows(error: ValueError, batch: pa.RecordBatch) -> FlightserveError | None:
    """The error of whoever sent the rows, where it is his: a missing or infinite value where the model takes none, or a
    category that it has not seen."""
    text = str(error)
    if "NaN" in text or "infinity" in text:
        for field, column in zip(batch.schema, batch.columns, strict=True):
            if (row := _first_odd(column)) is not None:
                value = _shown(column[row].as_py())
                return InvalidArgument(f"row {row} of column {field.name!r} is {value}; the model takes no such value")
    if "unknown categor" in text:
        return InvalidArgument(f"the model does not know a value: {' '.join(text.split())[:200]}")
    return None


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)


def _first_odd(column: pa.Array) -> int | None:
    if pt.is_floating(column.type):
        odd = ~np.isfinite(column.to_numpy(zero_copy_only=False))
    else:
        odd = column.is_null().to_numpy(zero_copy_only=False)
    return int(odd.argmax()) if odd.any() else None

"""How models are declared: a file, and options. The file is read when the app is planned (`fs.serve` and the like)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, TypeAlias, Unpack

import pyarrow as pa

from flightserve.declare import NAME, Bound, Options, Servable, check_name, make_options
from flightserve.declare.decorators import Example
from flightserve.errors import ConfigError
from flightserve.models.estimators import SklearnReplica
from flightserve.models.files import ModelFile
from flightserve.models.onnx_models import OnnxReplica, external_files
from flightserve.models.serving import ModelReplica, Served
from flightserve.models.torch_models import TorchReplica
from flightserve.types import DeploymentOptions

# A feature's type: Arrow's, or its name, as in "float32".
Features: TypeAlias = Mapping[str, pa.DataType | str] | pa.Schema


class _Model(Servable):
    """One file, served as one deployment."""

    _replica: ClassVar[type[ModelReplica]]
    _suffixes: ClassVar[tuple[str, ...]]

    def __init__(self, served: Served, name: str | None, options: Options) -> None:
        self.name = check_name(name) if name is not None else _name_of(served.file)
        self._served = served
        self._bound: Bound[Any] = Bound(
            self._replica, (served,), {}, make_options(options, DeploymentOptions()), self.name
        )
        suffix = Path(served.file.path).suffix
        if suffix not in self._suffixes:
            endings = ", ".join(self._suffixes)
            raise ConfigError(f"{type(self).__name__} takes a file that ends in {endings}; not {served.file.name!r}")

    def bind(self) -> Bound[Any]:
        """What `App` serves: one and the same, however often it is asked for."""
        return self._bound

    flightserve_bound = bind

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._served.file.path!r}, name={self.name!r})"


class Sklearn(_Model):
    """A fitted estimator of scikit-learn, or of a library that is like it, from a file of skops (`.skops`), joblib
    (`.joblib`) or pickle (`.pkl`, `.pickle`).

    Its features are columns, by the names that it was fitted with or `x0`, `x1`, ...; numbers are float64, and a null
    is NaN to it. `predict` gives the column `prediction` (or `prediction_0`, ... where it predicts several),
    `predict_proba`, where there is one, a column `p_CLASS` for each class. One that only transforms has `transform`.

    `features` says the types of features that cannot be read off the model, as in `{"note": "string"}`. A pickle runs
    code of whoever wrote it: it is told of, unless `trusted` is True. Of a `.skops` file nothing runs; types that skops
    does not know are refused, unless `trusted` names them. A model that another version of scikit-learn saved is
    refused, unless `any_version`. `warmup` runs the model in each replica before its first request: True on rows of its
    own, or on the rows given. Other options are those of `@fs.deployment`; with `num_cpus` BLAS and OpenMP take so many
    threads. Raises ConfigError for options that make no sense; the file is looked at when the app is planned.
    """

    _replica = SklearnReplica
    _suffixes = (".skops", ".joblib", ".pkl", ".pickle")

    def __init__(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        features: Features | None = None,
        trusted: bool | Sequence[str] = False,
        any_version: bool = False,
        warmup: bool | Example = True,
        **options: Unpack[Options],
    ) -> None:
        typed = None if features is None else _typed(features)
        named = trusted if isinstance(trusted, bool) else tuple(trusted)
        super().__init__(Served(_file(path), warmup, typed, named, any_version), name, options)


class Onnx(_Model):
    """A model in the ONNX format (`.onnx`), run by ONNX Runtime.

    Its inputs and outputs are columns, by their names: a tensor `[N]` or `[N, 1]` is a column of numbers or strings,
    one `[N, 4]` a column of fixed-size lists of 4, and so on; `[N, any]` is a column of lists, and rows of one length
    run together. A null is NaN where there is such a value, and refused elsewhere. The method is `predict`.

    With `num_cpus` it takes so many threads, with `num_gpus` it runs by CUDA. `features` names what one input `[N, 4]`
    holds, as in `["hour", "distance", ...]`: then these are the columns, of numbers. `warmup` runs the model in each
    replica before its first request: True on rows of its own, or on the rows given. Other options are those of
    `@fs.deployment`. Raises ConfigError for options that make no sense; the file is looked at when the app is planned.
    """

    _replica = OnnxReplica
    _suffixes = (".onnx",)

    def __init__(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        features: Sequence[str] | None = None,
        warmup: bool | Example = True,
        **options: Unpack[Options],
    ) -> None:
        named = None if features is None else _names(features)
        super().__init__(Served(_file(path, external_files), warmup, named), name, options)


class Torch(_Model):
    """A module of PyTorch: TorchScript (`.pt`, `.ts`), an exported program (`.pt2`), or weights (`.pt`, `.pth`) of a
    `module`, which is a class or function that makes it.

    `inputs` are the Arrow types (or their names) of what the module takes, in its order: `{"x": "float32"}` is a tensor
    `[N]`, a list of 4 one `[N, 4]`, a list of any length one `[N, any]`, whose rows of one length run together. Or
    `features` names the values of its only input `[N, k]`, and they are columns of 32-bit floats. What it gives is seen
    on a sample: a tensor is the column `output`, several are `output_0`, ..., or called as `outputs` says, a dict's as
    it says. The method is `predict`.

    With `num_cpus` it takes so many threads, with `num_gpus` it runs by CUDA. `warmup` runs the module in each replica
    before its first request: True on rows of its own, or on the rows given. Other options are those of
    `@fs.deployment`. Raises ConfigError for options that make no sense; the file is looked at when the app is planned.
    """

    _replica = TorchReplica
    _suffixes = (".pt", ".pth", ".ts", ".pt2")

    def __init__(
        self,
        path: str | Path,
        *,
        inputs: Features | None = None,
        features: Sequence[str] | None = None,
        outputs: Sequence[str] | None = None,
        module: Callable[[], Any] | None = None,
        name: str | None = None,
        warmup: bool | Example = True,
        **options: Unpack[Options],
    ) -> None:
        if (inputs is None) is (features is None):
            raise ConfigError(
                "nothing in a file says what a module takes: give inputs={'x': type}, or features=[names]"
            )
        if module is not None and not callable(module):
            raise ConfigError(f"module makes the module that the weights are of; {module!r} cannot be called")
        named = None if features is None else _names(features)
        typed = {"input": pa.list_(pa.float32(), len(named))} if named else _typed(inputs or {}, "inputs")
        if not typed:
            raise ConfigError("inputs names nothing that the module takes")
        served = Served(_file(path), warmup, named, inputs=typed, outputs=outputs, module=module)
        super().__init__(served, name, options)


def _names(features: Sequence[str]) -> dict[str, None]:
    if isinstance(features, str) or not features or len(set(features)) != len(features):
        raise ConfigError(f"features are different names, one for each value of the input; not {features!r}")
    return dict.fromkeys(features)


def _file(path: str | Path, beside: Callable[[BinaryIO], Sequence[str]] | None = None) -> ModelFile:
    if not isinstance(path, str | Path):
        raise ConfigError(f"a model is given by its file's path, not by an object of {type(path).__name__}")
    return ModelFile(str(path), beside)


def _name_of(file: ModelFile) -> str:
    name = re.sub(r"\.\w+$", "", file.name)
    if not NAME.fullmatch(name):
        raise ConfigError(f"{file.name!r} gives no name that a deployment can have; give one: name='price'")
    return name


def _typed(features: Features, what: str = "features") -> dict[str, pa.DataType]:
    if isinstance(features, pa.Schema):
        return {each.name: each.type for each in features}
    if not isinstance(features, Mapping):
        raise ConfigError(f"{what} are types by name, as in {{'hour': 'int64'}}; not {features!r}")
    try:
        return {name: pa.type_for_alias(kind) if isinstance(kind, str) else pa.field(name, kind).type
                for name, kind in features.items()}  # fmt: skip
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{what}: {error}") from error

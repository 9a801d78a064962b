"""Models from files as deployments: three lines from the file to all protocols.

    import flightserve as fs

    app = fs.App(fs.models.Sklearn("price.joblib"))

| class | takes | extra |
|---|---|---|
| `Sklearn` | an estimator of scikit-learn, or one like it, from joblib, pickle or skops | `flightserve[sklearn]` |
| `Onnx` | a model in the ONNX format | `flightserve[onnx]` |
| `Torch` | TorchScript, an exported program, or weights of a module of PyTorch | `flightserve[torch]` |

What they have in common is in `declare` and `serving`: the file is read when the app is planned, and travels with the
deployment, so that all replicas of a version run the same model whatever becomes of the file.
"""

from __future__ import annotations

from flightserve.models.declare import Onnx as Onnx
from flightserve.models.declare import Sklearn as Sklearn
from flightserve.models.declare import Torch as Torch

__all__ = ["Onnx", "Sklearn", "Torch"]

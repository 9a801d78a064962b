"""Pickles of user code: by reference where the module can be imported in the children, by value for what was
defined in `__main__` or inside a function. Ray carries cloudpickle; no other room may import ray for it."""

from __future__ import annotations

from typing import Any

from ray import cloudpickle


def dumps(value: Any) -> bytes:
    """The value as a pickle. Raises what pickling raises: TypeError, pickle.PicklingError, ..."""
    return bytes(cloudpickle.dumps(value))


def loads(data: bytes) -> Any:
    """What `dumps` was given. Imports the modules it refers to; only for bytes of our own launcher."""
    return cloudpickle.loads(data)

"""A descriptor pool for stubs whose names others may register too (`generate` says why)."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pool

_POOL: Final[Any] = descriptor_pool.DescriptorPool()


def Default() -> Any:
    """The pool, by the name that generated stubs ask the public one by."""
    return _POOL

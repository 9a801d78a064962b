"""The folder of keys for CURVE, while it is served by."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flightserve.errors import ConfigError
from flightserve.frontends.zmq.curve import CurveKeys, make_keys


def test_a_folder_of_clients_that_goes_lets_nobody_else_in(tmp_path: Path) -> None:
    make_keys(str(tmp_path), ["ana"])
    keys = CurveKeys(str(tmp_path))
    keys.read()
    known, folder = keys.clients, tmp_path / "clients"
    folder.rename(tmp_path / "aside")
    with pytest.raises(ConfigError, match="clients has gone"):
        keys.look()
    assert not keys.look() and keys.clients == known
    (tmp_path / "aside").rename(folder)
    make_keys(str(tmp_path), ["bo"])
    assert keys.look() and sorted((keys.clients or {}).values()) == ["ana", "bo"]


def test_a_pipe_is_no_key(tmp_path: Path) -> None:
    make_keys(str(tmp_path), ["ana"])
    keys = CurveKeys(str(tmp_path))
    keys.read()
    os.mkfifo(tmp_path / "clients" / "pipe.key")
    with pytest.raises(ConfigError, match="is no file"):
        keys.look()

"""The app's plan in its folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from flightserve.control import boot
from flightserve.control.names import plan_file
from flightserve.errors import Unavailable
from tests.control.standins import plan


def test_a_disk_that_is_full_is_told_of_in_words(tmp_path: Path) -> None:
    mine = dataclasses.replace(plan(), folder=str(tmp_path))
    path = Path(plan_file(mine.folder, mine.app_id))
    path.symlink_to("/dev/full")
    with pytest.raises(Unavailable, match=r"the app's plan \([\d,]+ bytes\) cannot be written to .*: No space left"):
        boot._kept(mine)
    assert not path.is_symlink()
    assert Path(boot._kept(mine)).stat().st_mode & 0o777 == 0o600

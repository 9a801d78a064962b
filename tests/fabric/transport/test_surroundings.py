"""What is asked of the machine: who runs, who was throttled, what a wake-up costs."""

from __future__ import annotations

from pathlib import Path

import pytest

from flightserve.fabric.transport import surroundings
from flightserve.fabric.transport.surroundings import groups, look_around, wake_up_ns


def test_this_machine_says_what_it_is_like() -> None:
    assert look_around().runnable >= 1
    assert look_around().throttled >= 0
    assert wake_up_ns() > 0


def test_the_groups_above_count_as_well() -> None:
    top = Path("/sys/fs/cgroup")
    assert list(groups("0::/pod/app\n")) == [top / "pod/app", top / "pod", top]
    assert list(groups("0::/\n")) == [top]


def test_of_version_1_it_is_those_that_share_out_cores() -> None:
    cores = Path("/sys/fs/cgroup/cpu")
    found = list(groups("9:name=systemd:/x\n4:memory:/x\n2:cpu,cpuacct:/x\n3:cpuset:/x\n"))
    assert found == [cores / "x", cores]


def test_throttled_is_the_sum_of_all_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pod").mkdir()
    (tmp_path / "cpu.stat").write_text("usage_usec 1\nnr_periods 9\nnr_throttled 3\nthrottled_usec 5\n")
    (tmp_path / "pod/cpu.stat").write_text("nr_throttled 4\n")
    monkeypatch.setattr(surroundings, "_GROUPS", tmp_path)
    monkeypatch.setattr(surroundings, "_own_groups", lambda: "0::/pod/away\n")
    assert look_around().throttled == 7

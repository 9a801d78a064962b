"""What is asked of the machine: who runs, who was throttled, what a wake-up costs."""

from __future__ import annotations

import os
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


@pytest.mark.parametrize("text", ["", "\n", "cpu\n", "0:\n", "0::\n"])
def test_what_the_kernel_says_in_another_form_is_nothing(text: str) -> None:
    assert list(groups(text)) == []


def test_a_group_has_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "_GROUPS", tmp_path)
    group = tmp_path / os.fsdecode(b"a:\xff\x0c\xe2\x80\xa8")
    group.mkdir()
    (group / "cpu.stat").write_text("nr_throttled 2\n")
    monkeypatch.setattr(surroundings, "_own_groups", lambda: f"0::/{group.name}\n")
    assert look_around().throttled == 2


def test_throttled_is_the_sum_of_all_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pod").mkdir()
    (tmp_path / "cpu.stat").write_text("usage_usec 1\nnr_periods 9\nnr_throttled 3\nthrottled_usec 5\n")
    (tmp_path / "pod/cpu.stat").write_text("nr_throttled 4\n")
    monkeypatch.setattr(surroundings, "_GROUPS", tmp_path)
    monkeypatch.setattr(surroundings, "_own_groups", lambda: "0::/pod/away\n")
    assert look_around().throttled == 7

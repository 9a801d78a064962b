"""Every option, bound and argument is a setting, with a key, a variable and a flag."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import inspect
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import flightserve as fs
from flightserve.cli.main import main, make_parser
from flightserve.cli.serving import frontend_options
from flightserve.cli.settings.known import parsers_of
from flightserve.config import EdgeLimits, FabricLimits, FrontendOptions
from flightserve.errors import ConfigError
from tests.cli.settled import APP, KNOWN, settled


def test_every_option_of_the_command_line_has_a_key_and_a_variable() -> None:
    for command, parser in parsers_of(make_parser()).items():
        ours = {setting.dest: setting for setting in KNOWN.of_command[command]}
        for action in parser._actions:
            if (
                not action.option_strings
                or action.dest in ("help", "config", "set")
                or action.help == argparse.SUPPRESS
            ):
                continue
            setting = ours[action.dest]
            assert KNOWN.by_key[setting.key] is setting
            assert setting.flag in action.option_strings
            assert setting.variable.startswith("FLIGHTSERVE_")
            assert any(each.dest == "config" for each in parser._actions), command


def test_no_argument_of_a_command_is_taken_for_another() -> None:
    """`reconfigure NAME CONFIG` was once read as `--config CONFIG`. Two flags may be about one thing: `--allow-get`."""
    for command, parser in parsers_of(make_parser()).items():
        positional = [action.dest for action in parser._actions if not action.option_strings]
        taken = {action.dest for action in parser._actions if action.option_strings}
        assert len(set(positional)) == len(positional), command
        assert not taken & set(positional), command


def test_a_configuration_is_no_file_of_settings(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["reconfigure", "Pricing", '{"tax": 0.5}', "--app", "nosuch"]) == 1
    assert "no app nosuch runs" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", APP, "--frontends", "x"], "'x' is no number of frontends; write one, or node"),
        (["sql", "a.csv", "--threads", "-1"], "flightserve: --threads is -1; it is 0 (one for each core) to 1024"),
    ],
)
def test_a_wrong_value_is_told_by_the_flag_s_name(
    arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with contextlib.suppress(SystemExit):
        main([*arguments, "--address", "nowhere"])
    assert said in capfd.readouterr().err


def test_who_reads_no_more_of_the_output_is_no_error() -> None:
    command = [sys.executable, "-m", "flightserve", "completion", "bash"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_who_closed_the_output_gets_no_traceback() -> None:
    command = "exec '{}' -m flightserve completion bash >&-"
    ended = subprocess.run(["sh", "-c", command.format(sys.executable)], stderr=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")


GONE, UNREADABLE = ("gone", "the current folder is gone"), ("\udcff", "the current folder's path is no UTF-8")


@pytest.mark.parametrize(
    ("command", "folder", "said"),
    [
        ("run app:app", *GONE),
        ("check app:app", *GONE),
        ("sql t.csv", *GONE),
        ("check t.csv", *GONE),
        ("run app:app", *UNREADABLE),
        ("check app:app", *UNREADABLE),
    ],
)
def test_a_folder_where_nothing_can_be_served_is_told(command: str, folder: str, said: str, tmp_path: Path) -> None:
    place = tmp_path / folder
    place.mkdir()
    (place / "app.py").write_text("import flightserve as fs\nclass A:\n  def f(self, b): ...\napp = fs.App(fs.bind(A))")
    (place / "t.csv").write_text("a\n1\n")
    leave = f"rm -r {shlex.quote(str(place))}" if folder == "gone" else "true"
    ports = " ".join(f"--set {protocol}_port=0" for protocol in ("http", "grpc", "flight", "zmq"))
    line = f"{leave}; exec {shlex.quote(sys.executable)} -m flightserve {command} {ports}"
    ended = subprocess.run(["sh", "-c", line], cwd=place, capture_output=True, check=False, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr.decode().splitlines()[-1].startswith(f"flightserve: {said}")
    assert b"Traceback" not in ended.stderr


def test_only_what_edits_a_file_that_is_named_has_commands_below_it() -> None:
    """Options of those are no settings: who adds a principal says so each time."""
    parsers = parsers_of(make_parser())
    below = [
        name for name, each in parsers.items() if any(isinstance(a, argparse._SubParsersAction) for a in each._actions)
    ]
    assert below == ["auth"]


def test_no_two_settings_have_one_key_or_variable() -> None:
    variables = [setting.variable for setting in KNOWN.by_key.values()]
    assert len(set(variables)) == len(variables)
    assert not any(variable.startswith("FLIGHTSERVE_DEPLOYMENTS_") for variable in variables)
    sections = {key[0] for key in KNOWN.by_key if len(key) > 1} | {"deployments"}
    assert not sections & {key[0] for key in KNOWN.by_key if len(key) == 1}


def test_every_bound_has_a_key_and_its_own_default() -> None:
    for section, of in (("limits", EdgeLimits), ("fabric", FabricLimits)):
        for each in dataclasses.fields(of):
            assert KNOWN.by_key[section, each.name].default == each.default


def test_every_default_is_what_its_own_kind_reads() -> None:
    for setting in KNOWN.by_key.values():
        if isinstance(setting.default, int | float | str) and setting.default not in ("", False):
            value = setting.kind.from_toml(setting.default, "/")
            assert value == setting.default, setting.name


def test_every_option_of_serve_has_a_setting() -> None:
    """`fs.serve`'s own, but for `replace`, which is for notebooks."""
    renamed = {
        "allowed_hosts": "allow_host", "cors_origins": "cors_origin", "drain_timeout_s": "drain_timeout",
        "wait_for_nodes_s": "wait_for_nodes",
    }  # fmt: skip
    parameters = inspect.signature(fs.serve).parameters.values()
    names = {each.name for each in parameters if each.kind is each.KEYWORD_ONLY} - {"replace"}
    names |= {each.name for each in dataclasses.fields(FrontendOptions)}
    sections = {"limits", "fabric"}
    assert {renamed.get(name, name) for name in names - sections} <= {key[0] for key in KNOWN.by_key if len(key) == 1}


def test_a_ticket_key_is_read_from_its_file_and_never_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "conf.toml").write_text('ticket_key = "ticket.key"')
    path = tmp_path / "ticket.key"

    def key() -> bytes:
        return frontend_options(settled("run", APP, "--config", str(tmp_path / "conf.toml"))).ticket_key

    with pytest.raises(ConfigError, match=r"ticket_key .*/ticket.key cannot be read: No such file"):
        key()
    path.write_bytes(b"hunter2")
    with pytest.raises(ConfigError, match=r"has 7 bytes; a key has 32 to 4,096: head -c 32 /dev/urandom") as raised:
        key()
    assert "hunter2" not in raised.value.message
    path.write_bytes(b"hunter2" * 8)
    path.chmod(0o644)
    first = key()
    assert first == key() and len(first) == 32 and "can be read by other users" in caplog.text
    path.write_bytes(b"x" * 4097)
    with pytest.raises(ConfigError, match="has more than 4,096 bytes"):
        key()
    path.write_bytes(b"another key of 32 bytes or more.")
    assert key() != first
    assert frontend_options(settled("run", APP)).ticket_key != frontend_options(settled("run", APP)).ticket_key

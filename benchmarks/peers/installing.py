"""`make peers`: make the environments of the peers, those that are not there as they are described.

One that cannot be made says why, in its folder and on the terminal, and keeps nobody else from being made.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys

from benchmarks.peers import ALL, ROOT, Environment

INSTALL_TIMEOUT_S = 900.0
REASON_CHARACTERS_MAX = 300


def fingerprint(environment: Environment) -> str:
    """What it is made of: its requirements, and what their constraints say."""
    digest = hashlib.sha256(repr((environment.requirements, sys.version_info[:2])).encode())
    for name in environment.constraints:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def install(environment: Environment) -> str:
    """Make it; returns why that failed, "" where it did not."""
    constraints = [word for name in environment.constraints for word in ("-c", str(ROOT / name))]
    commands = [
        # What is there is taken on to other versions, which is quicker than a new one.
        [sys.executable, "-m", "venv", str(environment.folder)],
        [
            *(str(environment.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *constraints,
            *environment.requirements,
        ],
    ]
    for command in commands:
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False, cwd=ROOT
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{type(error).__name__}: {error}"
        if done.returncode:
            return reason_of(done.stderr or done.stdout)
    return ""


def reason_of(said: str) -> str:
    """The first error among what was said, or its last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["it said nothing"]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors[:1] or lines[-1:])[0][:REASON_CHARACTERS_MAX]


def ensure(environment: Environment) -> str:
    """Make it where it is not there as it is described; returns why that failed, "" where it did not."""
    wanted = fingerprint(environment)
    if environment.stamp.exists() and environment.stamp.read_text() == wanted:
        return ""
    print(f"installing {environment.name} ...", file=sys.stderr, flush=True)
    if reason := install(environment):
        environment.folder.mkdir(parents=True, exist_ok=True)
        environment.stamp.unlink(missing_ok=True)
        environment.reason.write_text(reason + "\n")
        return reason
    environment.reason.unlink(missing_ok=True)
    environment.stamp.write_text(wanted)
    return ""


def main() -> None:
    """Make all."""
    for environment in ALL:
        if reason := ensure(environment):
            print(f"{environment.name}: {reason}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

"""What is in deploy/ and what the code says are one: ports, paths, settings, versions, times, memory.

`make lint` has hadolint and the schemas of Kubernetes look at the same files.
"""

from __future__ import annotations

import functools
import re
import runpy
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from flightserve import __version__
from flightserve.cli.main import make_parser
from flightserve.cli.settings.files import read_file
from flightserve.cli.settings.known import read_settings
from flightserve.config import MIB, USUAL_PORTS, FrontendOptions
from tests.test_tidy import ROOT

DEPLOY = ROOT / "deploy"
CONTAINERFILE = (DEPLOY / "Containerfile").read_text()
UNIT = (DEPLOY / "systemd/flightserve.service").read_text()
COMPOSE = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SETTINGS_AT = "/etc/flightserve/flightserve.toml"
# Of each process, without its models or tables.
PROCESS_BYTES = 300 * MIB


@functools.cache
def manifests(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / f"kubernetes/{name}.yaml").read_text()))


def of_kind(name: str, kind: str) -> dict[str, Any]:
    (found,) = [each for each in manifests(name) if each["kind"] == kind and "-pods" not in each["metadata"]["name"]]
    return found


def pods(name: str) -> Iterator[dict[str, Any]]:
    """The specs of pods that serve, then of those that only run replicas."""
    if name == "flightserve":
        yield of_kind(name, "Deployment")["spec"]["template"]["spec"]
        return
    spec = of_kind(name, "RayCluster")["spec"]
    yield spec["headGroupSpec"]["template"]["spec"]
    for group in spec["workerGroupSpecs"]:
        yield group["template"]["spec"]


def settings_texts() -> dict[str, str]:
    found = {name: of_kind(name, "ConfigMap")["data"]["flightserve.toml"] for name in ("flightserve", "raycluster")}
    return {**found, "compose": (DEPLOY / "compose/flightserve.toml").read_text()}


def settings(name: str) -> dict[str, Any]:
    return tomllib.loads(settings_texts()[name])


def bytes_of(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Gi|Mi|MiB|g|m)", text).groups()  # type: ignore[union-attr]
    return int(number) * (1024 * MIB if unit in ("Gi", "g") else MIB)


def seconds_of(text: str) -> int:
    return int(text.removesuffix("s"))


# ---- settings


@pytest.mark.parametrize("name", sorted(settings_texts()))
def test_settings_are_those_that_there_are(name: str, tmp_path: Path) -> None:
    file = tmp_path / "flightserve.toml"
    file.write_text(settings_texts()[name])
    read_file(str(file), read_settings(make_parser()))
    said = settings(name)
    # Beyond loopback nobody calls without a name.
    assert said["host"] == "0.0.0.0" and "auth" in said and "insecure" not in said


@pytest.mark.parametrize("name", ["flightserve", "raycluster"])
def test_files_that_settings_name_are_mounted(name: str) -> None:
    pod = next(pods(name))
    mounts = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert SETTINGS_AT in mounts
    for key in ("auth", "tls_cert", "tls_key", "ticket_key"):
        if key in settings(name):
            assert str(Path(settings(name)[key]).parent) in mounts, key
    for pod in pods(name):
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert volumes == {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        # Every process of the app follows the file of --auth.
        assert "auth" in volumes


def test_files_that_compose_names_are_there_or_are_made_before() -> None:
    service, said = COMPOSE["services"]["flightserve"], settings("compose")
    assert said["auth"] in [secret["target"] for secret in service["secrets"]]
    assert SETTINGS_AT in [config["target"] for config in service["configs"]]
    folder = DEPLOY / "compose"
    (dockerfile,) = [folder / service["build"]["context"] / service["build"]["dockerfile"]]
    sources = [volume.split(":")[0] for each in COMPOSE["services"].values() for volume in each.get("volumes", ())]
    named = [COMPOSE["configs"]["flightserve"]["file"], *sources]
    assert all((folder / each).exists() for each in named) and dockerfile.exists()
    prometheus = yaml.safe_load(COMPOSE["configs"]["prometheus"]["content"])
    (scraped,) = prometheus["scrape_configs"]
    assert scraped["static_configs"] == [{"targets": [f"flightserve:{USUAL_PORTS['http']}"]}]
    assert said["allow_host"] == ["flightserve"]
    assert prometheus["rule_files"] == [Path(sources[1]).name]


# ---- ports and paths


def test_ports() -> None:
    ports = set(USUAL_PORTS.values())
    (exposed,) = re.findall(r"^EXPOSE (.*)$", CONTAINERFILE, re.MULTILINE)
    assert set(map(int, exposed.split())) == ports
    for name in ("flightserve", "raycluster"):
        container = next(pods(name))["containers"][0]
        named = {port["name"]: port["containerPort"] for port in container["ports"]}
        served = {key: port for key, port in USUAL_PORTS.items() if not settings(name).get(f"no_{key}")}
        assert served.items() <= named.items()
        for service in (each for each in manifests(name) if each["kind"] == "Service"):
            assert all(named[port["targetPort"]] == port["port"] for port in service["spec"]["ports"])
        rules = of_kind(name, "NetworkPolicy")["spec"]["ingress"]
        assert {port["port"] for rule in rules for port in rule.get("ports", ())} == set(served)
    published = [port.split(":") for port in COMPOSE["services"]["flightserve"]["ports"]]
    assert all(
        host == "127.0.0.1" and outside == inside and int(inside) in ports for host, outside, inside in published
    )


@pytest.mark.parametrize("name", ["flightserve", "raycluster"])
def test_probes(name: str) -> None:
    container = next(pods(name))["containers"][0]
    paths = {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"}
    scheme = "HTTPS" if "tls_cert" in settings(name) else "HTTP"
    for probe, path in paths.items():
        assert container[probe]["httpGet"] == {"path": path, "port": "http", "scheme": scheme}
    assert "/healthz" in (DEPLOY / "image/healthcheck.py").read_text()


def test_the_health_check_asks_where_the_settings_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    http_port = runpy.run_path(str(DEPLOY / "image/healthcheck.py"))["http_port"]
    monkeypatch.delenv("FLIGHTSERVE_CONFIG", raising=False)
    assert http_port() == USUAL_PORTS["http"]
    (tmp_path / "flightserve.toml").write_text("http_port = 8181")
    monkeypatch.setenv("FLIGHTSERVE_CONFIG", str(tmp_path / "flightserve.toml"))
    assert http_port() == 8181
    monkeypatch.setenv("FLIGHTSERVE_HTTP_PORT", "8282")
    assert http_port() == "8282"


# ---- versions


def test_versions() -> None:
    bases = set(re.findall(r"^FROM (\S+)", CONTAINERFILE, re.MULTILINE))
    (version,) = re.findall(r"docker.io/library/python:(\d+\.\d+)-slim$", next(iter(bases)))
    assert len(bases) == 1
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]
    (ray,) = re.findall(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert of_kind("raycluster", "RayCluster")["spec"]["rayVersion"] == ray
    (extras,) = re.findall(r"'\.\[(.*?)\]'", CONTAINERFILE)
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    for name in ("flightserve", "raycluster"):
        assert {pod["containers"][0]["image"] for pod in pods(name)} == {f"flightserve:{__version__}"}


def test_the_context_holds_what_is_copied() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", CONTAINERFILE, re.MULTILINE)
    for source in " ".join(copied).split():
        assert (ROOT / source).exists(), source
        assert any(f"!{parent}" in ignored for parent in (Path(source), *Path(source).parents)), source


# ---- times and memory


def test_whoever_ends_it_waits_until_it_has_drained() -> None:
    for name in ("flightserve", "raycluster"):
        pod = next(pods(name))
        (waits,) = re.findall(r"sleep\((\d+)\)", pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1])
        drain_s = seconds_of(settings(name)["drain_timeout"])
        assert pod["terminationGracePeriodSeconds"] > drain_s + int(waits)
    assert seconds_of(COMPOSE["services"]["flightserve"]["stop_grace_period"]) > seconds_of(
        settings("compose")["drain_timeout"]
    )
    (stop_s,) = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)
    assert int(stop_s) > FrontendOptions().drain_timeout_s
    assert "SIGTERM" in re.findall(r"^STOPSIGNAL (.*)$", CONTAINERFILE, re.MULTILINE)


@pytest.mark.parametrize("name", ["flightserve", "raycluster", "compose"])
def test_memory_has_room_for_rows(name: str) -> None:
    """Of a frontend and two replicas, with the app's other processes, and what lies in /tmp and /dev/shm."""
    rows = 3 * bytes_of(settings(name)["fabric"]["memory_bytes_max"])
    if name == "compose":
        service = COMPOSE["services"]["flightserve"]
        limit = bytes_of(service["mem_limit"])
        volatile = bytes_of(service["tmpfs"][0].split("size=")[1].split(",")[0]) + bytes_of(service["shm_size"])
    else:
        pod = next(pods(name))
        limit = bytes_of(pod["containers"][0]["resources"]["limits"]["memory"])
        assert pod["containers"][0]["resources"]["requests"]["memory"] == f"{limit >> 30}Gi"
        volatile = sum(bytes_of(each["emptyDir"]["sizeLimit"]) for each in pod["volumes"] if "emptyDir" in each)
    assert rows + volatile + 7 * PROCESS_BYTES <= limit


# ---- who may do what


@pytest.mark.parametrize("name", ["flightserve", "raycluster"])
def test_pods_may_do_little(name: str) -> None:
    for pod in pods(name):
        container = pod["containers"][0]
        assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
        assert f"USER {pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" in CONTAINERFILE
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        written = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert written == {"/tmp", "/dev/shm"}


def test_a_service_of_systemd_may_do_little() -> None:
    flags = re.findall(r"(--[a-z-]+)", "\n".join(line for line in UNIT.splitlines() if line.startswith("Exec")))
    assert set(flags) == {"--config"}
    for line in ("DynamicUser=yes", "NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet="):
        assert line in UNIT.splitlines()
    # There is nothing that tells systemd.
    assert "Type=notify" not in UNIT


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """Its programs are not installed here; another one stands for them."""
    unit = tmp_path / "flightserve.service"
    unit.write_text(UNIT.replace("/srv/flightserve/bin/flightserve", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")

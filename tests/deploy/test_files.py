"""Check `Dockerfile` and `docker-compose.yml` without Docker."""

import json
import re
import tomllib
from pathlib import Path

import jsonschema_rs
import pytest
import yaml
from typer.testing import CliRunner

from core.settings import Settings
from server.cli import app

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
BUILT_SERVICES = {name: service for name, service in COMPOSE["services"].items() if "build" in service}


def instructions(keyword):
    return [line.split(maxsplit=1)[1] for line in DOCKERFILE.splitlines() if line.startswith(f"{keyword} ")]


def test_the_compose_file_follows_the_compose_specification():
    schema = json.loads((ROOT / "tests/deploy/compose-spec.json").read_text())
    fragments = {key for key in COMPOSE if key.startswith("x-")}

    jsonschema_rs.Draft202012Validator(schema).validate({k: v for k, v in COMPOSE.items() if k not in fragments})


def test_every_process_of_the_service_is_in_the_compose_file():
    assert set(COMPOSE["services"]) == {
        "postgres",
        "valkey",
        "migrate",
        "api",
        "worker",
        "worker-cuda",
        "ingest",
        "inspector",
        "scheduler",
    }


@pytest.mark.parametrize("name", BUILT_SERVICES)
def test_every_setting_in_the_compose_file_exists(name):
    known = {f"POTSTILL_{field.upper()}" for field in Settings.model_fields}

    assert set(BUILT_SERVICES[name]["environment"]) <= known


@pytest.mark.parametrize("name", BUILT_SERVICES)
def test_every_command_in_the_compose_file_is_valid(name):
    program, *arguments = BUILT_SERVICES[name]["command"]
    run = CliRunner().invoke(app, [*arguments, "--help"])

    assert program == "potstill-server"
    assert run.exit_code == 0, run.output


@pytest.mark.parametrize("name", BUILT_SERVICES)
def test_every_image_is_a_target_of_the_dockerfile(name):
    targets = {line.split(" AS ")[1] for line in instructions("FROM")}

    assert BUILT_SERVICES[name]["build"]["target"] in targets


def test_every_file_that_the_dockerfile_copies_is_in_the_build_context():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for line in instructions("COPY") if not line.startswith("--from") for source in line.split()[:-1]}

    assert copied <= allowed
    assert all((ROOT / source).exists() for source in copied)


def test_the_dockerfile_installs_extras_that_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    assert set(re.findall(r"'\.\[([\w,]+)\]'", DOCKERFILE)) == {"api", "worker"}
    assert {"api", "worker"} <= set(extras)


def test_the_api_image_has_no_torch():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    requirements = " ".join([*extras["api"], *extras["store"]])

    assert "potstill-server[store]" in requirements
    assert not re.search(r"\b(torch|timm|onnx)", requirements)

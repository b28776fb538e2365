"""Every installed package is pinned with a hash: in `make install`, in CI and in the images."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {
    "install": {"embedded", "dev", "build"},
    "bench": {"embedded", "dev", "bench", "build"},
    "api": {"api", "otel", "build"},
    "worker": {"worker", "otel", "build"},
}
PINS = {
    canonicalize_name(line.split("==")[0]): line.split("==")[1]
    for line in (ROOT / "constraints.txt").read_text().splitlines()
}


def locked(name):
    """Requirements and hashes of a lock by package. A package may have one line per platform."""
    text = (ROOT / "locks" / f"{name}.txt").read_text().replace("\\\n", " ")
    requirements = {}
    for line in text.splitlines():
        requirement, *hashes = re.split(r"\s+--hash=", line.strip())
        parsed = Requirement(requirement)
        requirements.setdefault(canonicalize_name(parsed.name), []).append((parsed, hashes))
    return requirements


def direct_requirements(extras):
    """Direct requirements of extras, including nested extras."""
    requirements, pending = [*map(Requirement, PROJECT["dependencies"])], [*extras]
    for extra in pending:
        for requirement in map(Requirement, PROJECT["optional-dependencies"][extra]):
            if requirement.name == PROJECT["name"]:
                pending.extend(set(requirement.extras) - set(pending))
            else:
                requirements.append(requirement)
    return requirements


@pytest.mark.parametrize("name", EXTRAS)
def test_every_locked_package_has_one_version_and_hashes(name):
    for lines in locked(name).values():
        for requirement, hashes in lines:
            assert re.fullmatch(r"==[\w.+!]+", str(requirement.specifier)), requirement
            assert hashes, requirement
            assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in hashes), requirement


@pytest.mark.parametrize("name", EXTRAS)
def test_a_lock_contains_the_requirements_of_its_extras(name):
    requirements = locked(name)

    for requirement in direct_requirements(EXTRAS[name]):
        (line, _), *_ = requirements[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(str(line.specifier).removeprefix("==")), (requirement, line)


@pytest.mark.parametrize("name", EXTRAS)
def test_locks_and_constraints_have_the_same_versions(name):
    """Packages of other platforms are only in the locks."""
    for package, lines in locked(name).items():
        if package in PINS:
            assert {str(requirement.specifier) for requirement, _ in lines} == {f"=={PINS[package]}"}, package


def test_the_api_lock_has_no_torch():
    assert {"torch", "timm", "torchvision", "onnx", "onnxruntime", "pyarrow"} & set(locked("api")) == set()


@pytest.mark.parametrize("file", ["Makefile", "Dockerfile", ".ci/run"])
def test_nothing_is_installed_without_a_hash(file):
    text = (ROOT / file).read_text().replace("\\\n", " ")
    text = re.sub(r"^(PIP|LOCKED) := .*\n", "", text, flags=re.MULTILINE)
    installs = [line for line in text.splitlines() if re.search(r"pip install|\$\((PIP|LOCKED)\)", line)]

    for line in installs:
        has_hashes = "--require-hashes" in line or "$(LOCKED)" in line
        is_own_package = "--no-deps --no-build-isolation" in line
        is_lock_tool = "$(UV)" in line  # `make lock` installs the pinned tool in its own environment
        assert has_hashes or is_own_package or is_lock_tool, line


def test_make_installs_only_wheels_with_hashes():
    makefile = (ROOT / "Makefile").read_text()

    assert re.search(
        r"^LOCKED := \$\(PIP\) --require-hashes --only-binary :all: --requirement$", makefile, re.MULTILINE
    )

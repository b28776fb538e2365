"""Everything that is installed is named with its hash: in `make install`, in CI and in the images."""

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
    "api": {"api", "build"},
    "worker": {"worker", "build"},
}
PINS = {
    canonicalize_name(line.split("==")[0]): line.split("==")[1]
    for line in (ROOT / "constraints.txt").read_text().splitlines()
}


def locked(name):
    """The requirements of a lock with their hashes, by package; a package may have a line for each platform."""
    text = (ROOT / "locks" / f"{name}.txt").read_text().replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        requirement, *hashes = re.split(r"\s+--hash=", line.strip())
        parsed = Requirement(requirement)
        found.setdefault(canonicalize_name(parsed.name), []).append((parsed, hashes))
    return found


def wanted(extras):
    """The direct requirements of these extras, those of the extras that they name included."""
    found, todo = [*map(Requirement, PROJECT["dependencies"])], [*extras]
    for extra in todo:
        for requirement in map(Requirement, PROJECT["optional-dependencies"][extra]):
            if requirement.name == PROJECT["name"]:
                todo.extend(set(requirement.extras) - set(todo))
            else:
                found.append(requirement)
    return found


@pytest.mark.parametrize("name", EXTRAS)
def test_every_line_of_a_lock_is_one_version_with_hashes(name):
    for lines in locked(name).values():
        for requirement, hashes in lines:
            assert re.fullmatch(r"==[\w.+!]+", str(requirement.specifier)), requirement
            assert hashes, requirement
            assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes), requirement


@pytest.mark.parametrize("name", EXTRAS)
def test_a_lock_holds_what_its_extras_ask_for(name):
    found = locked(name)

    for requirement in wanted(EXTRAS[name]):
        (line, _), *_ = found[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(str(line.specifier).removeprefix("==")), (requirement, line)


@pytest.mark.parametrize("name", EXTRAS)
def test_locks_and_constraints_name_the_same_versions(name):
    """What only other platforms need is in the locks alone."""
    for package, lines in locked(name).items():
        if package in PINS:
            assert {str(requirement.specifier) for requirement, _ in lines} == {f"=={PINS[package]}"}, package


def test_the_lock_of_the_api_is_free_of_torch():
    assert {"torch", "timm", "torchvision", "onnx", "onnxruntime", "pyarrow"} & set(locked("api")) == set()


@pytest.mark.parametrize("file", ["Makefile", "Dockerfile", ".ci/run"])
def test_nothing_is_installed_without_a_hash(file):
    text = (ROOT / file).read_text().replace("\\\n", " ")
    text = re.sub(r"^(PIP|LOCKED) := .*\n", "", text, flags=re.MULTILINE)
    installs = [line for line in text.splitlines() if re.search(r"pip install|\$\((PIP|LOCKED)\)", line)]

    for line in installs:
        locked_too = "--require-hashes" in line or "$(LOCKED)" in line
        only_ours = "--no-deps --no-build-isolation" in line
        maker_of_locks = "$(UV)" in line  # `make lock` installs it beside, pinned, for whoever changes a dependency
        assert locked_too or only_ours or maker_of_locks, line


def test_make_installs_wheels_with_hashes_alone():
    makefile = (ROOT / "Makefile").read_text()

    assert re.search(
        r"^LOCKED := \$\(PIP\) --require-hashes --only-binary :all: --requirement$", makefile, re.MULTILINE
    )

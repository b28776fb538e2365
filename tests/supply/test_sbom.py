"""The SBOM lists the installed packages with versions and licenses."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_sbom_lists_the_installed_packages(tmp_path):
    out = tmp_path / "sbom.json"
    command = [
        sys.executable,
        "-m",
        "cyclonedx_py",
        "environment",
        "--no-validate",
        "--pyproject",
        str(ROOT / "pyproject.toml"),
    ]
    subprocess.run([*command, "--output-format", "JSON", "--output-file", str(out), sys.executable], check=True)
    document = json.loads(out.read_text())
    found = {component["name"].lower(): component for component in document["components"]}

    assert document["metadata"]["component"]["name"] == "potstill-server"
    assert found["torch"]["version"] == version("torch")
    assert found["fastapi"]["licenses"]
    assert any(entry["ref"].startswith("torch") and entry["dependsOn"] for entry in document["dependencies"])

"""The commands of docs/start.md, run in their order as they stand on the page."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.ports import free_port
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = re.findall(r"^```sh\n(.+?)```", (ROOT / "docs" / "start.md").read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def checkout(tmp_path):
    """A folder with the files of the repository, in which `make up` creates its state."""
    folder = tmp_path / "potstill"
    folder.mkdir()
    for entry in ROOT.iterdir():
        if entry.name not in {"potstill-home", "demo", "student"}:
            (folder / entry.name).symlink_to(entry)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_page_leads_to_a_student_that_beats_its_baseline(checkout, tmp_path):
    port = free_port()
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "config"), "COLUMNS": "100"}
    environment.pop("POTSTILL_URL", None)
    environment.pop("POTSTILL_API_KEY", None)
    up, *commands = COMMANDS
    assert up == "make up\n"

    output = tmp_path / "up.log"
    with (
        output.open("wb") as log,
        subprocess.Popen(
            ["make", "up", f"PORT={port}"],
            cwd=checkout,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as service,
    ):
        try:
            until(lambda: service.poll() is not None or "ready" in output.read_text(), 120, "the service is not ready")
            printed = [_run(command.replace(":8000", f":{port}"), checkout, environment) for command in commands]
        finally:
            os.killpg(service.pid, signal.SIGINT)
    assert "Traceback" not in output.read_text()

    gains = [re.findall(r"\+(\d+\.\d) points", text) for text in printed]
    assert sum(map(bool, gains)) == 2, printed
    result = json.loads((checkout / "student" / "report.json").read_text())["result"]
    assert result["baseline"]["gain_interval"][0] > 0.1
    files = {path.name for path in (checkout / "student").iterdir()}
    assert {"README.md", "config.json", "model.onnx", "model.safetensors"} <= files


def _run(command, folder, environment):
    """Run a block of the page in a shell; return what it prints."""
    run = subprocess.run(["sh", "-ec", command], cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, f"{command}\n{run.stdout[-3000:]}{run.stderr[-3000:]}"
    return run.stdout

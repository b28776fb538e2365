"""``make demo``, run as a user runs it."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from tests.support.waiting import until


def start(folder):
    return subprocess.Popen(
        [sys.executable, "-m", "server.demo"],
        cwd=folder,
        env={**os.environ, "DEMO_EXIT": "1", "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def descendants(process):
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_leaves_a_student_that_is_visibly_better_and_no_process(tmp_path):
    with start(tmp_path) as demo:
        output, _ = demo.communicate(timeout=850)

    assert demo.returncode == 0, output
    assert "student, distilled" in output
    folder = tmp_path / "demo" / "distilled"
    files = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "config.json", "model.onnx", "README.md", "report.json"} <= files
    baseline = json.loads((folder / "report.json").read_text())["result"]["baseline"]
    assert baseline["gain_interval"][0] > 0.05, "the student is visibly better"


@pytest.mark.slow
def test_ctrl_c_ends_the_demo_and_all_its_processes(tmp_path):
    with start(tmp_path) as demo:
        until((tmp_path / "demo" / "home" / "api-key").exists, 90, "the demo wrote no API key")
        started = descendants(demo)
        assert started

        demo.send_signal(signal.SIGINT)
        output, _ = demo.communicate(timeout=60)

    _, alive = psutil.wait_procs(started, timeout=10)
    assert alive == []
    assert "Traceback" not in output

"""`torchrun … -m core run`: real agents on the loopback interface, with gloo.

The agents of two machines differ from those of this test in their addresses only.
"""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from core.__main__ import app
from core.errors import InvalidSpec, ProcessLost
from core.reporting import Interrupted
from core.torchrun_job import _require_finished, process_identity, with_num_ranks
from core.train.rank_channel import Outcome
from tests.support.images import store_band_images

TOLERANCE = 1e-5  # relative, of losses: parts of a batch are summed in another order
ROOT = Path(__file__).resolve().parents[2]
# Without them a lost agent is noticed after 15 s.
TORCHRUN_SETTINGS = "keep_alive_interval=2,keep_alive_max_attempt=4"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """66 training and 12 test images of three classes: batches of 13 and 14, which two ranks cannot halve."""
    return store_band_images(tmp_path_factory.mktemp("bands"), num_train=22, num_test=4)


def write_spec(path, *, epochs, devices=None):
    document = {
        "student": {
            "architecture": "vit_tiny_patch16_224",
            "arguments": {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2},
        },
        "method": {"name": "scratch"},
        "training": {
            "epochs": epochs,
            "batch_size": 14,
            "learning_rate": 3e-3,
            "image_size": 8,
            "keep_weights_every_epochs": 1,  # saves a checkpoint as well
        },
        "export": ["safetensors"],
        "resources": {"accelerator": "cpu", "threads": 1, **({} if devices is None else {"devices": devices})},
    }
    path.write_text(json.dumps(document))
    return path


def arguments(spec, dataset, out):
    return ["run", str(spec), "--dataset", str(dataset), "--out", str(out)]


def run_here(spec, dataset, out):
    """Run the job without torchrun."""
    outcome = CliRunner().invoke(app, arguments(spec, dataset, out))
    assert outcome.exit_code == 0, outcome.output
    return out


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def agents(*command, port, log_dir, environment=()):
    """Start agents on demand; kill those that are left."""
    started = []
    options = ["--nnodes=2", "--nproc-per-node=1", "--max-restarts=3", "--monitor-interval=0.1"]
    options += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=test"]
    options += ["--local-addr=127.0.0.1", f"--rdzv-conf={TORCHRUN_SETTINGS}"]

    def start():
        with (log_dir / f"agent-{len(started)}.log").open("wb") as log:
            agent = subprocess.Popen(
                [sys.executable, "-m", "torch.distributed.run", *options, "-m", "core", *command],
                cwd=ROOT,
                env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", **dict(environment)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        started.append(agent)
        return agent

    try:
        yield start
    finally:
        for agent in started:
            agent.kill()
            agent.wait()


def succeed(log_dir, *running):
    for agent in running:
        assert agent.wait(timeout=200) == 0, "".join(path.read_text() for path in sorted(log_dir.iterdir()))


def losses(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


def digest(out):
    return hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()


def test_two_agents_have_the_losses_of_one_process(dataset, tmp_path):
    spec, logs = write_spec(tmp_path / "spec.json", epochs=3), tmp_path / "logs"
    logs.mkdir()
    command = arguments(spec, dataset, tmp_path / "two")
    with agents(*command, port=free_port(), log_dir=logs) as start:
        succeed(logs, start(), start())
    run_here(spec, dataset, tmp_path / "one")

    assert len(losses(tmp_path / "one")) == 15
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=TOLERANCE)
    resources = json.loads((tmp_path / "two" / "report.json").read_text())["spec"]["resources"]
    assert resources["devices"] == 2
    assert {path.name for path in (tmp_path / "two").iterdir()} == {path.name for path in (tmp_path / "one").iterdir()}


@pytest.mark.slow  # seven starts of the engine
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_job_that_loses_an_agent_resumes_with_a_new_one_to_the_same_bits(number, dataset, tmp_path):
    spec, logs, out = write_spec(tmp_path / "spec.json", epochs=60), tmp_path / "logs", tmp_path / "two"
    logs.mkdir()
    checkpoints = out / ".work" / "run" / "checkpoints" / "distill"
    # torch's agents find a new one of another round only if they do not share their store with the ranks.
    unshared = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    command = arguments(spec, dataset, out)
    with agents(*command, port=free_port(), log_dir=logs, environment=unshared.items()) as start:
        first, second = start(), start()
        while not checkpoints.is_dir() or not any(path.name.isdigit() for path in checkpoints.iterdir()):
            assert first.poll() is None
            time.sleep(0.02)
        second.send_signal(number)
        assert second.wait(timeout=60) != 0
        assert (out / ".work").is_dir()
        succeed(logs, first, start())
    assert "resumed at step" in (logs / "agent-0.log").read_text()
    run_here(write_spec(tmp_path / "local.json", epochs=60, devices=2), dataset, tmp_path / "local")

    assert losses(out) == losses(tmp_path / "local")
    assert digest(out) == digest(tmp_path / "local")


def test_the_number_of_devices_is_that_of_the_processes():
    assert with_num_ranks({"name": "x"}, 4) == {"name": "x", "resources": {"devices": 4}}
    assert with_num_ranks({"resources": {"devices": 4, "threads": 2}}, 4)["resources"] == {"devices": 4, "threads": 2}
    assert with_num_ranks({"resources": "all"}, 4) == {"resources": "all"}
    with pytest.raises(InvalidSpec, match=r"/resources/devices: 2, but torchrun has started 4 processes"):
        with_num_ranks({"resources": {"devices": 2}}, 4)


def test_processes_have_to_agree_on_versions_and_arguments():
    identity = process_identity({"--dataset": "images"})

    assert identity["--dataset"] == "images"
    assert {"machine", "Python", "torch", "timm", "Potstill"} < identity.keys()
    assert process_identity({"--dataset": "images"}) == identity


def test_an_unfinished_job_fails_in_all_processes():
    """Otherwise torchrun would take a machine's ranks for finished, and not restart them."""
    _require_finished(Outcome.FINISHED)
    with pytest.raises(Interrupted):
        _require_finished(Outcome.INTERRUPTED)
    with pytest.raises(ProcessLost, match="rank 0 has failed"):
        _require_finished(Outcome.FAILED)

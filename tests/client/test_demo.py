import json
import subprocess
import sys
from pathlib import Path

import pytest

from potstill.errors import NotReady
from server import demo


def test_a_stack_that_fails_to_start_is_reported_with_its_log(tmp_path, monkeypatch):
    server = tmp_path / "potstill-server"
    server.write_text(f"#!{sys.executable}\nprint('this folder is in use by a live stack')\nraise SystemExit(1)\n")
    server.chmod(0o755)
    monkeypatch.setattr(demo, "_server", lambda: str(server))

    with pytest.raises(NotReady, match="in use by a live stack"), demo.stack(tmp_path / "home"):
        pass


def test_the_stack_stops_after_an_exception(tmp_path, monkeypatch, service, respond):
    service.on("GET", "/readyz", respond({"status": "ready"}))
    server = tmp_path / "potstill-server"
    server.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, signal, sys\n"
        "home = pathlib.Path(sys.argv[3])\n"
        "(home / 'api-key').write_text('ps_1')\n"
        "signal.signal(signal.SIGTERM, lambda *_: ((home / 'stopped').touch(), sys.exit(0)))\n"
        "(home / 'started').touch()\n"
        "signal.pause()\n"
    )
    server.chmod(0o755)
    monkeypatch.setattr(demo, "_server", lambda: str(server))
    monkeypatch.setattr(demo, "_free_port", lambda: int(service.url.rpartition(":")[2]))
    home = tmp_path / "home"

    def wait(process, url, log):
        while not (home / "started").exists():
            assert process.poll() is None, log.read_text()

    monkeypatch.setattr(demo, "_wait_until_ready", wait)
    addresses = []

    def use():
        with demo.stack(home) as address:
            addresses.append(address)
            raise RuntimeError("error in the block")

    with pytest.raises(RuntimeError, match="error in the block"):
        use()

    assert addresses == [(service.url, "ps_1")]
    assert (home / "stopped").exists()


def test_a_stack_that_ignores_sigterm_is_killed(monkeypatch):
    monkeypatch.setattr(demo, "STOP_SECONDS", 0.05)
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        process.stdout.readline()

        demo._stop(process)

    assert process.returncode == -9


def test_the_demo_runs_the_job_of_the_readme():
    example = json.loads((Path(demo.__file__).parents[1] / "examples" / "job.json").read_text())

    assert example == {"name": "distilled", "dataset": "digits", "unlabeled_dataset": "more-digits", **demo.JOB}


def test_help_names_the_options():
    run = subprocess.run([sys.executable, "-m", "server.demo", "--help"], capture_output=True, text=True, timeout=60)

    assert run.returncode == 0, run.stderr
    assert all(option in run.stdout for option in ("--folder", "--port", "--exit", "DEMO_EXIT"))


def test_the_stack_runs_on_the_given_port(tmp_path, monkeypatch):
    server = tmp_path / "potstill-server"
    server.write_text(f"#!{sys.executable}\nimport sys\nprint(sys.argv)\nraise SystemExit(1)\n")
    server.chmod(0o755)
    monkeypatch.setattr(demo, "_server", lambda: str(server))

    with pytest.raises(NotReady, match="'--port', '9123'"), demo.stack(tmp_path / "home", port=9123):
        pass

"""Commands that do not need a running stack."""

import logging
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog

from core.settings import load_settings
from server import embedded
from server.broker import EmbeddedBroker
from server.cli import main
from server.embedded import StackOptions, _require_free_port
from server.home_lock import CannotStart, lock_home


@dataclass(frozen=True)
class Run:
    """Exit status and output of a command."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run `potstill-server` with a temporary home folder in this process."""
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    monkeypatch.setenv("POTSTILL_HOME", str(tmp_path / "home"))
    load_settings.cache_clear()

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["potstill-server", *arguments, "--home", str(tmp_path / "home")])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            main()
        output = capsys.readouterr()
        return Run(exited.value.code or 0, output.out, output.err)

    yield run
    load_settings.cache_clear()
    logging.captureWarnings(capture=False)
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)
    structlog.reset_defaults()


def test_a_key_is_shown_once_then_listed_and_revoked(command):
    assert command("migrate").returncode == 0
    token = command("keys", "create", "--name", "laptop", "--scopes", "read").stdout.strip()
    listed = command("keys", "list").stdout
    key_id = listed.split()[0]

    assert token.startswith("ps_")
    assert "laptop" in listed
    assert token not in listed
    assert command("keys", "revoke", key_id).returncode == 0
    assert "revoked" in command("keys", "list").stdout


def test_an_error_is_one_line_with_the_fix(command):
    command("migrate")
    unknown = command("keys", "create", "--scopes", "root")
    missing = command("keys", "revoke", "key_nothing")

    assert (unknown.returncode, missing.returncode) == (1, 1)
    assert "read, write, admin" in unknown.stderr
    assert "keys list" in missing.stderr
    assert "Traceback" not in unknown.stderr + missing.stderr


def test_a_key_may_expire(command):
    command("migrate")
    command("keys", "create", "--days", "30")

    assert "until 20" in command("keys", "list").stdout


def test_a_project_is_created_with_a_key_and_limits(command):
    command("migrate")
    project = command("projects", "create", "research").stdout.strip()
    assert command("keys", "create", "--project", project).returncode == 0
    assert command("projects", "set", project, "--jobs", "7", "--stored-bytes", "0").returncode == 0
    listed = command("projects", "list").stdout
    assert project.startswith("prj_")
    assert "research  0 unfinished jobs, 0 B  max_jobs=7 max_stored_bytes=0" in listed

    command("projects", "set", project, "--jobs", "default", "--stored-bytes", "default")
    assert "limits of the settings" in command("projects", "list").stdout


@pytest.mark.parametrize(
    ("option", "value"), [("--jobs", "many"), ("--jobs", "-1"), ("--upload-bytes", "0"), ("--jobs", "9" * 30)]
)
def test_an_invalid_limit_is_rejected_with_the_fix(command, option, value):
    command("migrate")
    project = command("projects", "create", "p").stdout.strip()
    refused = command("projects", "set", project, f"{option}={value}")

    assert refused.returncode == 1
    assert "or `default`" in refused.stderr


def test_an_unknown_project_lists_the_existing_ones(command):
    command("migrate")
    existing = command("projects", "create", "p").stdout.strip()

    assert existing in command("projects", "set", "prj_x", "--jobs", "1").stderr


def test_preparing_twice_keeps_the_first_key(command, tmp_path):
    file = tmp_path / "home" / "api-key"
    assert command("prepare").returncode == 0
    first = file.read_text()
    assert command("prepare").returncode == 0

    assert file.read_text() == first
    assert file.stat().st_mode & 0o777 == 0o600


def test_an_invalid_key_file_is_replaced(command, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "api-key").write_text("ps_old\n")
    command("prepare")

    assert (tmp_path / "home" / "api-key").read_text().startswith("ps_0")


def test_help_does_not_import_the_service():
    heavy = ("torch", "sqlalchemy", "celery", "fastapi")
    code = f"import sys, server.cli; print([m for m in {heavy} if m in sys.modules])"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_folder_in_use_is_rejected_with_the_process_id(tmp_path):
    with lock_home(tmp_path), pytest.raises(CannotStart, match=str(os.getpid())), lock_home(tmp_path):
        pass


def test_a_stale_lock_file_is_reused(tmp_path):
    (tmp_path / "stack.lock").write_text("12345")

    with lock_home(tmp_path):
        assert (tmp_path / "stack.lock").read_text() == str(os.getpid())


def test_a_port_in_use_is_rejected_with_the_fix(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "_PORT_TIMEOUT_SECONDS", 0.0)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(CannotStart, match="--port"):
            _require_free_port(StackOptions(tmp_path, "127.0.0.1", other.getsockname()[1]))


def test_the_broker_password_is_private(tmp_path):
    broker = EmbeddedBroker.choose()
    role = broker.role(tmp_path / "valkey", {})
    file = Path(role.command[-1])

    assert file.stat().st_mode & 0o777 == 0o600
    assert broker.password not in " ".join(role.command)
    assert broker.password in file.read_text()


def test_a_backup_without_a_database_fails(command, tmp_path):
    failed = command("backup", "--to", str(tmp_path / "backup"))

    assert failed.returncode == 1
    assert "There is no database at" in failed.stderr
    assert not (tmp_path / "home" / "potstill.db").exists()


def test_a_backup_prints_its_contents(command, tmp_path):
    command("migrate")
    result = command("backup", "--to", str(tmp_path / "backup"))

    assert result.returncode == 0, result.stderr
    assert "0 files (0 new), 0 bytes, and the database" in result.stdout
    assert (tmp_path / "backup" / "potstill.db").exists()


def test_a_ready_stack_prints_its_address_its_key_and_the_next_command(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded.shutil, "which", lambda _: "/bin/potstill")
    options = StackOptions(tmp_path / "my home", "0.0.0.0", 9000)
    options.home.mkdir()
    key_path = options.home / "api-key"
    key_path.write_text("ps_1\n")

    assert embedded.ready_lines(options) == [
        "ready http://127.0.0.1:9000",
        "  dashboard  http://127.0.0.1:9000",
        f"  key        {key_path}",
        f"""  next       potstill login --url http://127.0.0.1:9000 --key "$(cat '{key_path}')\"""",
    ]
    key_path.unlink()
    assert "was deleted; make another: potstill-server keys create" in embedded.ready_lines(options)[-1]


def test_the_port_of_make_up_can_be_chosen():
    makefile = (Path(__file__).resolve().parents[2] / "Makefile").read_text()

    assert "--port $(or $(PORT),8000)" in makefile


def test_missing_packages_are_named(tmp_path):
    """An installation without the extra `embedded`."""
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError(\"No module named 'typer'\", name='typer')\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"}

    result = subprocess.run(
        [sys.executable, "-m", "server", "--help"], env=environment, capture_output=True, text=True, timeout=60
    )

    assert result.returncode == 1
    assert 'the package typer is not installed; run pip install "potstill-server[embedded]"' in result.stderr
    assert "Traceback" not in result.stderr

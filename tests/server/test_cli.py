"""The commands that need no running stack."""

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
from server.broker import EmbeddedBroker
from server.cli import main
from server.embedded import StackOptions, _require_free_port
from server.home_lock import CannotStart, lock_home


@dataclass(frozen=True)
class Run:
    """How a command ended and what it said."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run `potstill-server` on a folder of its own, in this process."""
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    monkeypatch.setenv("POTSTILL_HOME", str(tmp_path / "home"))
    load_settings.cache_clear()

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["potstill-server", *arguments, "--home", str(tmp_path / "home")])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        return Run(left.value.code or 0, said.out, said.err)

    yield run
    load_settings.cache_clear()
    logging.captureWarnings(capture=False)
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)
    structlog.reset_defaults()


def test_a_key_is_shown_once_listed_and_revoked(command):
    assert command("migrate").returncode == 0
    token = command("keys", "create", "--name", "laptop", "--scopes", "read").stdout.strip()
    listed = command("keys", "list").stdout
    key_id = listed.split()[0]

    assert token.startswith("ps_")
    assert "laptop" in listed
    assert token not in listed
    assert command("keys", "revoke", key_id).returncode == 0
    assert "revoked" in command("keys", "list").stdout


def test_what_cannot_be_is_one_line_that_names_the_fix(command):
    command("migrate")
    unknown = command("keys", "create", "--scopes", "root")
    gone = command("keys", "revoke", "key_nothing")

    assert (unknown.returncode, gone.returncode) == (1, 1)
    assert "read, write, admin" in unknown.stderr
    assert "keys list" in gone.stderr
    assert "Traceback" not in unknown.stderr + gone.stderr


def test_a_key_may_be_good_for_some_days(command):
    command("migrate")
    command("keys", "create", "--days", "30")

    assert "until 20" in command("keys", "list").stdout


def test_a_project_is_made_with_a_key_and_limits_of_its_own(command):
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
def test_what_is_no_limit_is_refused_with_the_fix(command, option, value):
    command("migrate")
    project = command("projects", "create", "p").stdout.strip()
    refused = command("projects", "set", project, f"{option}={value}")

    assert refused.returncode == 1
    assert "or `default`" in refused.stderr


def test_a_project_that_is_not_there_names_those_that_are(command):
    command("migrate")
    known = command("projects", "create", "p").stdout.strip()

    assert known in command("projects", "set", "prj_x", "--jobs", "1").stderr


def test_preparing_twice_keeps_the_first_key(command, tmp_path):
    file = tmp_path / "home" / "api-key"
    assert command("prepare").returncode == 0
    first = file.read_text()
    assert command("prepare").returncode == 0

    assert file.read_text() == first
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_key_that_opens_nothing_any_more_is_replaced(command, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "api-key").write_text("ps_old\n")
    command("prepare")

    assert (tmp_path / "home" / "api-key").read_text().startswith("ps_0")


def test_help_comes_without_loading_the_service():
    heavy = ("torch", "sqlalchemy", "celery", "fastapi")
    code = f"import sys, server.cli; print([m for m in {heavy} if m in sys.modules])"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_folder_in_use_is_refused_and_names_who_uses_it(tmp_path):
    with lock_home(tmp_path), pytest.raises(CannotStart, match=str(os.getpid())), lock_home(tmp_path):
        pass


def test_a_lock_file_of_a_dead_stack_is_no_obstacle(tmp_path):
    (tmp_path / "stack.lock").write_text("12345")

    with lock_home(tmp_path):
        assert (tmp_path / "stack.lock").read_text() == str(os.getpid())


def test_a_port_in_use_is_refused_with_the_fix(tmp_path, monkeypatch):
    monkeypatch.setattr("server.embedded._PORT_SECONDS", 0.0)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(CannotStart, match="--port"):
            _require_free_port(StackOptions(tmp_path, "127.0.0.1", other.getsockname()[1]))


def test_the_broker_s_password_is_nobody_else_s_business(tmp_path):
    broker = EmbeddedBroker.choose()
    role = broker.role(tmp_path / "valkey", {})
    file = Path(role.command[-1])

    assert file.stat().st_mode & 0o777 == 0o600
    assert broker.password not in " ".join(role.command)
    assert broker.password in file.read_text()


def test_a_backup_of_nothing_says_what_is_missing(command, tmp_path):
    failed = command("backup", "--to", str(tmp_path / "backup"))

    assert failed.returncode == 1
    assert "There is no database at" in failed.stderr
    assert not (tmp_path / "home" / "potstill.db").exists()


def test_a_backup_says_what_it_holds(command, tmp_path):
    command("migrate")
    made = command("backup", "--to", str(tmp_path / "backup"))

    assert made.returncode == 0, made.stderr
    assert "0 files (0 new), 0 bytes, and the database" in made.stdout
    assert (tmp_path / "backup" / "potstill.db").exists()

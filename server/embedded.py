"""Run the full stack on one machine: ``potstill-server up``."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shlex
import shutil
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from core.settings import JOB_MEMORY_FRACTION
from core.system.memory import total_memory
from server.broker import EmbeddedBroker
from server.home_lock import CannotStart, lock_home
from server.logs import format_line
from server.processes import Role
from server.supervisor import Supervisor

BROKER_SECONDS = 20.0
PREPARE_SECONDS = 300.0  # for the migration of a large database
_PROBE_SECONDS = 0.2
_START_DELAY_SECONDS = 10.0
_STATUS_SECONDS = 15.0  # between two lines while waiting for readiness
_PORT_TIMEOUT_SECONDS = 5.0  # a stack that was just killed may still hold the port


@dataclass(frozen=True, slots=True)
class StackOptions:
    """Options of ``up``."""

    home: Path
    host: str
    port: int
    workers: int = 1

    @property
    def reachable_host(self) -> str:
        """Host under which this machine connects to the API."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - compared, not bound

    @property
    def url(self) -> str:
        """URL of the API."""
        host = self.reachable_host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def up(options: StackOptions) -> None:
    """Run the stack until SIGTERM, SIGINT or SIGHUP. Raises :class:`CannotStart`."""
    os.umask(0o077)  # files stay private even in an existing folder that other users can read
    options.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with lock_home(options.home):
        _require_free_port(options)
        with Supervisor(options.home / "logs", on_line=_show_line, on_event=_show_event) as supervisor:
            try:
                _start(supervisor, options)
                supervisor.run()
            finally:
                if supervisor.stopping:
                    print_line("stopping")
                supervisor.stop(last=["valkey"])
    print_line("stopped")


def print_line(text: str) -> None:
    """Print a line; ignore a closed terminal."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


def _start(supervisor: Supervisor, options: StackOptions) -> None:
    environment = _environment(options)
    if "POTSTILL_BROKER_URL" not in environment:
        broker = EmbeddedBroker.choose()
        environment["POTSTILL_BROKER_URL"] = broker.url
        supervisor.start(broker.role(options.home / "valkey", environment))
        _wait_for_broker(supervisor, broker)
    prepare = Role("prepare", _command(options, "prepare"), environment, restart=False)
    status = supervisor.run_once(prepare, timeout=PREPARE_SECONDS)
    if status is None:
        return
    if status != 0:
        raise CannotStart(f"The database could not be prepared; see {options.home / 'logs' / 'prepare.log'}.")
    for role in _first_roles(options, environment):
        supervisor.start(role)
    _wait_until_ready(supervisor, options, _other_roles(options, environment))


def _first_roles(options: StackOptions, environment: dict[str, str]) -> list[Role]:
    """Roles that `/readyz` requires. The others start later, because starting takes all CPUs of a small machine."""
    address = ["--host", options.host, "--port", str(options.port)]
    return [
        Role("inspector", _command(options, "inspector"), environment | _LOW_MEMORY),
        Role("api", _command(options, "api", *address), environment | _LOW_MEMORY),
    ]


def _other_roles(options: StackOptions, environment: dict[str, str]) -> list[Role]:
    return [
        Role("worker", _command(options, "worker", "--concurrency", str(options.workers)), environment),
        Role("scheduler", _command(options, "scheduler"), environment | _LOW_MEMORY),
        Role("ingest", _command(options, "worker", "--queues", "ingest"), environment | _LOW_MEMORY),
    ]


def _command(options: StackOptions, role: str, *arguments: str) -> list[str]:
    """Command line with role and home folder, so that `ps` distinguishes processes and stacks."""
    return [sys.executable, "-P", "-m", "server", role, "--home", str(options.home), *arguments]


# For processes with little computation: fewer threads and malloc arenas to save memory.
_LOW_MEMORY = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}


def _environment(options: StackOptions) -> dict[str, str]:
    environment = dict(os.environ)
    environment["POTSTILL_HOME"] = str(options.home)
    environment["PYTHONUNBUFFERED"] = "1"
    environment["POTSTILL_LOG_FORMAT"] = "json"  # this process formats the lines for the terminal
    if options.workers > 1:
        threads = max(1, (os.cpu_count() or 1) // options.workers)
        environment.setdefault("POTSTILL_JOB_THREADS", str(threads))
        if (total := total_memory()) is not None:
            share = int(JOB_MEMORY_FRACTION * total) // options.workers
            environment.setdefault("POTSTILL_JOB_MEMORY_BYTES", str(share))
    return environment


def _wait_for_broker(supervisor: Supervisor, broker: EmbeddedBroker) -> None:
    deadline = time.monotonic() + BROKER_SECONDS
    while not supervisor.stopping and not broker.is_up():
        if time.monotonic() > deadline:
            raise CannotStart("The embedded broker did not start; see logs/valkey.log.")
        supervisor.step(0.02)


def _wait_until_ready(supervisor: Supervisor, options: StackOptions, others: list[Role]) -> None:
    """Start the other roles once the API responds; print a line when it is ready."""
    started_at = printed_at = time.monotonic()
    while not supervisor.stopping:
        status, body = _probe(options)
        if others and (status or time.monotonic() - started_at > _START_DELAY_SECONDS):
            for role in others:
                supervisor.start(role)
            others = []
        if status == http.HTTPStatus.OK:
            for line in ready_lines(options):
                print_line(line)
            return
        if time.monotonic() - printed_at > _STATUS_SECONDS:
            printed_at = time.monotonic()
            print_line(f"waiting: {body or 'the API does not respond yet'}")
        supervisor.step(_PROBE_SECONDS)


def ready_lines(options: StackOptions) -> list[str]:
    """Return the lines of a ready stack: its URL, then dashboard, key file and the next command to type."""
    key_path = options.home / "api-key"
    lines = [f"ready {options.url}", f"  dashboard  {options.url}"]
    if not key_path.exists():  # deleted after the first start; only hashes of keys are stored
        create = shlex.join(["potstill-server", "keys", "create", "--home", str(options.home)])
        return [*lines, f"  key        {key_path} was deleted; make another: {create}"]
    command = shlex.join([_client_command(), "login", "--url", options.url])
    return [*lines, f"  key        {key_path}", f'  next       {command} --key "$(cat {shlex.quote(str(key_path))})"']


def _client_command() -> str:
    """Return the name of the client's command, or its path if it is not in PATH; the name if it is not installed."""
    installed = Path(sys.executable).with_name("potstill")
    return str(installed) if shutil.which("potstill") is None and installed.exists() else "potstill"


def _probe(options: StackOptions) -> tuple[int, str]:
    connection = http.client.HTTPConnection(options.reachable_host, options.port, timeout=2.0)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        return response.status, _problem_detail(response.read())
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


def _problem_detail(body: bytes) -> str:
    """The detail of a problem response, or its raw body."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(json.loads(body)["detail"])
    return body.decode(errors="replace")


def _require_free_port(options: StackOptions) -> None:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    deadline = time.monotonic() + _PORT_TIMEOUT_SECONDS
    while True:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((options.host, options.port))
            except OSError as error:
                if time.monotonic() > deadline:
                    raise CannotStart(
                        f"Cannot listen on {options.host}:{options.port} ({error.strerror}); choose another --port."
                    ) from None
            else:
                return
        time.sleep(0.1)


def _show_line(role: str, line: bytes) -> None:
    text = format_line(role, line)
    if text is not None:
        print_line(text)


def _show_event(role: str, text: str) -> None:
    print_line(f"{time.strftime('%H:%M:%S')} {role:<10} {text}")

"""The whole stack on one machine: ``potstill-server up``."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from server.broker import EmbeddedBroker
from server.home_lock import CannotStart, lock_home
from server.logs import short
from server.processes import Role
from server.supervisor import Supervisor

BROKER_SECONDS = 20.0
PREPARE_SECONDS = 300.0  # a migration of a large database takes its time
_PROBE_SECONDS = 0.2
_HEAD_START_SECONDS = 10.0
_PATIENCE_SECONDS = 15.0  # between two lines about what the stack waits for
_PORT_SECONDS = 5.0  # processes of a stack that was just killed may hold the port for a moment


@dataclass(frozen=True, slots=True)
class StackOptions:
    """What ``up`` was asked for."""

    home: Path
    host: str
    port: int
    workers: int = 1

    @property
    def reachable_host(self) -> str:
        """The host under which this machine reaches the API."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - compared, not bound

    @property
    def url(self) -> str:
        """Where the API answers."""
        host = self.reachable_host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def up(options: StackOptions) -> None:
    """Run the stack until SIGTERM, SIGINT or SIGHUP. Raises :class:`CannotStart`."""
    os.umask(0o077)  # a folder that was there before may be open to other users of the machine; what is in it is not
    options.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with lock_home(options.home):
        _require_free_port(options)
        with Supervisor(options.home / "logs", on_line=_show_line, on_news=_show_news) as supervisor:
            try:
                _start(supervisor, options)
                supervisor.run()
            finally:
                if supervisor.stopping:
                    say("stopping")
                supervisor.stop(last=["valkey"])
    say("stopped")


def say(text: str) -> None:
    """Print for whoever watches; a closed terminal must not end the stack."""
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
    status = supervisor.finish(prepare, timeout=PREPARE_SECONDS)
    if status is None:
        return
    if status != 0:
        raise CannotStart(f"The database could not be prepared; {options.home / 'logs' / 'prepare.log'} says why.")
    for role in _first_roles(options, environment):
        supervisor.start(role)
    _wait_until_ready(supervisor, options, _other_roles(options, environment))


def _first_roles(options: StackOptions, environment: dict[str, str]) -> list[Role]:
    """What `/readyz` waits for. Its start takes all of a small machine, so the others come a moment later."""
    address = ["--host", options.host, "--port", str(options.port)]
    return [
        Role("inspector", _command(options, "inspector"), environment | _LIGHT),
        Role("api", _command(options, "api", *address), environment | _LIGHT),
    ]


def _other_roles(options: StackOptions, environment: dict[str, str]) -> list[Role]:
    return [
        Role("worker", _command(options, "worker", "--concurrency", str(options.workers)), environment),
        Role("scheduler", _command(options, "scheduler"), environment | _LIGHT),
        Role("ingest", _command(options, "worker", "--queues", "ingest"), environment | _LIGHT),
    ]


def _command(options: StackOptions, role: str, *arguments: str) -> list[str]:
    """A command line with the role as a word, and the folder, so that `ps` tells two stacks apart."""
    return [sys.executable, "-P", "-m", "server", role, "--home", str(options.home), *arguments]


# Processes that compute little: no pools of threads, and fewer of malloc's arenas, for the sake of memory.
_LIGHT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}


def _environment(options: StackOptions) -> dict[str, str]:
    environment = dict(os.environ)
    environment["POTSTILL_HOME"] = str(options.home)
    environment["PYTHONUNBUFFERED"] = "1"
    if options.workers > 1:
        threads = max(1, (os.cpu_count() or 1) // options.workers)
        environment.setdefault("POTSTILL_JOB_THREADS", str(threads))
    return environment


def _wait_for_broker(supervisor: Supervisor, broker: EmbeddedBroker) -> None:
    ends = time.monotonic() + BROKER_SECONDS
    while not supervisor.stopping and not broker.answers():
        if time.monotonic() > ends:
            raise CannotStart("The embedded broker did not start; logs/valkey.log says why.")
        supervisor.step(0.02)


def _wait_until_ready(supervisor: Supervisor, options: StackOptions, others: list[Role]) -> None:
    """Start the others once the API answers at all; say so when it answers that it is ready."""
    began = said = time.monotonic()
    while not supervisor.stopping:
        status, body = _probe(options)
        if others and (status or time.monotonic() - began > _HEAD_START_SECONDS):
            for role in others:
                supervisor.start(role)
            others = []
        if status == http.HTTPStatus.OK:
            say(f"ready {options.url}")
            return
        if time.monotonic() - said > _PATIENCE_SECONDS:
            said = time.monotonic()
            say(f"waiting: {body or 'the API does not answer yet'}")
        supervisor.step(_PROBE_SECONDS)


def _probe(options: StackOptions) -> tuple[int, str]:
    connection = http.client.HTTPConnection(options.reachable_host, options.port, timeout=2.0)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return answer.status, _readable(answer.read())
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


def _readable(body: bytes) -> str:
    """What the API says is missing, in a line."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(json.loads(body)["detail"])
    return body.decode(errors="replace")


def _require_free_port(options: StackOptions) -> None:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    ends = time.monotonic() + _PORT_SECONDS
    while True:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((options.host, options.port))
            except OSError as error:
                if time.monotonic() > ends:
                    raise CannotStart(
                        f"Cannot listen on {options.host}:{options.port} ({error.strerror}); choose another --port."
                    ) from None
            else:
                return
        time.sleep(0.1)


def _show_line(role: str, line: bytes) -> None:
    text = short(role, line)
    if text is not None:
        say(text)


def _show_news(role: str, text: str) -> None:
    say(f"{time.strftime('%H:%M:%S')} {role:<10} {text}")

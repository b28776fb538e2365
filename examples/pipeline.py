"""From a submitted job to a deployed student, without polling.

    python examples/pipeline.py submit spec.json --url https://hooks.example.com/potstill --name pets
    python examples/pipeline.py receive deployed --min-top1 0.9 --mlflow http://127.0.0.1:5000
    python examples/pipeline.py receive --github acme/pets    # a workflow of GitHub Actions deploys instead

The service registers the student in MLflow. Its webhook `tracking.finished` names the registered model and the version.
POTSTILL_URL and POTSTILL_API_KEY are set; `pip install ./client standardwebhooks`. `make check` checks this file with
mypy --strict. docs/deploy.md explains it.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from potstill import Job, Potstill

SECRET = Path("webhook-secret")
INBOX = Path("webhook-inbox.db")
EVENTS = ("tracking.finished", "job.failed", "job.cancelled")
FILES = ("model.onnx", "model.safetensors", "config.json", "report.json")

Data = Mapping[str, Any]  # of a webhook: `event` and `job`


# --- submit ---------------------------------------------------------------------------------------


def subscribe(client: Potstill, url: str, secret: Path = SECRET) -> None:
    """Create the webhook of a URL, and store its secret; do nothing if the URL has one."""
    if any(webhook.url == url for webhook in client.webhooks.list()):
        return
    created = client.webhooks.create(url, events=EVENTS, name="pipeline")
    secret.touch(mode=0o600)
    secret.write_text(created.secret or "")


def submit(client: Potstill, spec: Data, name: str, *, key: str | None = None) -> Job:
    """Submit a job whose student becomes a version of the registered model `name`. Returns at once.

    A repeated call with the same `key` creates no second job.
    """
    metadata = {**spec.get("metadata", {}), "mlflow.experiment": name, "mlflow.registered_model": name}
    return client.jobs.create({**spec, "name": name, "metadata": metadata}, idempotency_key=key)


# --- receive --------------------------------------------------------------------------------------


class Inbox:
    """Verified events in a file until they are handled: none is lost, and a repeated request is handled once."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, check_same_thread=False)
        self._lock = threading.Lock()
        self._execute("CREATE TABLE IF NOT EXISTS inbox (id TEXT PRIMARY KEY, event TEXT, handled INT DEFAULT 0)")
        self._waiting: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()
        for row in self._execute("SELECT id, event FROM inbox WHERE NOT handled"):
            self._waiting.put(row)

    def add(self, webhook_id: str, event: object) -> None:
        """Store an event, unless its id is known."""
        text = json.dumps(event)
        if self._execute("INSERT OR IGNORE INTO inbox (id, event) VALUES (?, ?) RETURNING id", webhook_id, text):
            self._waiting.put((webhook_id, text))

    def run(self, handle: Callable[[str, Data], object]) -> None:
        """Handle the events in turn until :meth:`close`. An event whose handling fails is handled after a restart."""
        while (row := self._waiting.get()) is not None:
            event = json.loads(row[1])
            try:
                handle(event["type"], event["data"])
            except Exception as error:  # noqa: BLE001 - the next event does not depend on this one
                print(f"{event['type']} was not handled: {error!r}", flush=True)
            else:
                self._execute("UPDATE inbox SET handled = 1 WHERE id = ?", row[0])

    def close(self) -> None:
        """End :meth:`run` after the events that wait."""
        self._waiting.put(None)

    def _execute(self, statement: str, *values: str) -> list[tuple[str, str]]:
        with self._lock, self._database:
            return self._database.execute(statement, values).fetchall()


def make_server(address: tuple[str, int], secret: str, inbox: Inbox) -> ThreadingHTTPServer:
    """Return a receiver, which responds as soon as an event is stored. A proxy in front of it has the certificate."""
    webhook = Webhook(secret)

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                event = webhook.verify(body, dict(self.headers.items()))
            except WebhookVerificationError as error:
                self.send_error(400, str(error))
                return
            inbox.add(self.headers["webhook-id"], event)
            self.send_response(204)
            self.end_headers()

    return ThreadingHTTPServer(address, Receiver)


# --- deploy ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Deployment:
    """A folder with a subfolder for each deployed job, and the link `current`, which a server of the model follows."""

    folder: Path
    mlflow_url: str
    min_top1: float = 0.0
    alias: str = "production"

    def deploy(self, client: Potstill, data: Data) -> bool:
        """Deploy the student of a `tracking.finished` if it is good enough: files, alias in MLflow, link."""
        registered, job = data["event"]["data"], data["job"]
        if registered["model_version"] is None:
            print(f"{job['id']} has no student: {job['error']}", flush=True)
            return False
        top1 = job["result"]["student"]["top1"]
        if top1 < self.min_top1:
            print(f"{job['id']} is not deployed: top-1 {top1:.3f} < {self.min_top1:.3f}", flush=True)
            return False
        available = {artifact.name for artifact in client.jobs.artifacts(job["id"])}
        client.jobs.download(job["id"], self.folder / job["id"], names=[name for name in FILES if name in available])
        set_alias(self.mlflow_url, registered["registered_model"], self.alias, registered["model_version"])
        link = self.folder / "next"
        link.unlink(missing_ok=True)
        link.symlink_to(job["id"])
        link.replace(self.folder / "current")
        print(f"{registered['registered_model']} {registered['model_version']} is deployed: {job['id']}", flush=True)
        return True


def set_alias(mlflow_url: str, name: str, alias: str, version: str) -> None:
    """Do what `MlflowClient().set_registered_model_alias(name, alias, version)` does, without installing MLflow."""
    request = {"name": name, "alias": alias, "version": version}
    httpx.post(f"{mlflow_url}/api/2.0/mlflow/registered-models/alias", json=request).raise_for_status()


def dispatch(repository: str, event_type: str, data: Data) -> None:
    """Start the workflows of a GitHub repository that listen to the event type (examples/github/deploy.yml)."""
    url = f"{os.environ.get('GITHUB_API_URL', 'https://api.github.com')}/repos/{repository}/dispatches"
    headers = {"Authorization": f"Bearer {os.environ['GITHUB_TOKEN']}", "Accept": "application/vnd.github+json"}
    httpx.post(url, json={"event_type": event_type, "client_payload": data}, headers=headers).raise_for_status()


# --- command line ---------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    sending = commands.add_parser("submit")
    sending.add_argument("spec", type=Path)
    sending.add_argument("--url", required=True, help="of the receiver")
    sending.add_argument("--name", required=True, help="of the registered model")
    sending.add_argument("--key", help="idempotency key, such as the commit")
    receiving = commands.add_parser("receive")
    receiving.add_argument("folder", type=Path, nargs="?", help="deploy into this folder")
    receiving.add_argument("--mlflow", default=os.environ.get("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000"))
    receiving.add_argument("--min-top1", type=float, default=0.0)
    receiving.add_argument("--github", help="owner/name of a repository whose workflow deploys")
    receiving.add_argument("--port", type=int, default=8088)
    options = parser.parse_args(arguments)
    if options.command == "receive" and not (options.folder or options.github):
        parser.error("give a folder, or --github")
    with Potstill() as client:
        if options.command == "submit":
            subscribe(client, options.url)
            job = submit(client, json.loads(options.spec.read_text()), options.name, key=options.key)
            print(f"{job.id} is {job.status}")
        else:
            receive(client, options)


def receive(client: Potstill, options: argparse.Namespace) -> None:
    """Receive events until Ctrl-C; deploy students here or in a workflow."""
    if options.github:
        handle: Callable[[str, Data], object] = partial(dispatch, options.github)
    else:
        options.folder.mkdir(parents=True, exist_ok=True)
        deployment = Deployment(options.folder, options.mlflow, options.min_top1)

        def handle(event_type: str, data: Data) -> None:
            if event_type == "tracking.finished":
                deployment.deploy(client, data)
            else:
                print(f"{data['job']['id']}: {event_type}", flush=True)

    inbox = Inbox(INBOX)
    threading.Thread(target=inbox.run, args=(handle,), daemon=True).start()
    server = make_server(("", options.port), SECRET.read_text(), inbox)
    print(f"receiving on port {options.port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()

"""The fenced blocks of README and docs: commands and programs run against a service, specs are parsed.

A page is run from top to bottom in a project of its own, in a folder with the files that it names. The service is
real; a :class:`Worker` ends datasets and jobs at once instead of training. What cannot run here has its reason in
``NOT_RUN``, and what another test runs stands in ``RUN_ELSEWHERE``.
"""

import ast
import asyncio
import json
import re
import shlex
import shutil
import sys
import threading
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import typer.main
import yaml

import core.__main__
import core.compress
import core.export
import server.cli
from api.datasets.schemas import DatasetCreate
from core.models.build import build_student
from core.models.plan import plan_student
from core.models.weights import save_folder
from core.settings import Settings
from core.spec import JobSpec, parse_job_spec
from core.spec.compression import PruneParams
from core.spec.info import InputInfo
from core.spec.webhook_events import WEBHOOK_EVENTS
from core.store import checkpoints, datasets, jobs, outbound
from core.store.db import utc_now
from core.store.ingest_leases import IngestLeaseToken
from core.store.job_leases import LeaseToken
from core.store.jobs import NewArtifact
from potstill import AsyncPotstill, Potstill
from potstill._sync import runtime
from potstill.cli import app
from potstill.cli.app import app as client_commands
from tests.support.archives import make_zip
from tests.support.curl import parse_curl

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`(?:\.venv/bin/)?((?:potstill|potstill-server|make|python -m core) [^`]+)`")

# Programs and languages that cannot run here.
NOT_RUN = {
    "kubectl": "needs a cluster; tests/deploy/test_kubernetes.py checks the manifests",
    "sbatch": "needs a Slurm cluster",
    "torchrun": "needs several machines; tests/core/test_torchrun_job.py runs two agents",
    "createdb": "needs a PostgreSQL server; tests/e2e/test_backup.py restores a dump",
    "pg_restore": "needs a PostgreSQL server; tests/e2e/test_backup.py restores a dump",
    "cp": "copies a backup or manifests to a folder of the reader",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "a variable of the OpenTelemetry SDK",
}
# Programs in Python by page.
RUN_ELSEWHERE = {
    "docs/exports.md": "tests/core/test_exports.py",
    "docs/serving.md": "tests/core/export/test_student.py",
    "docs/webhooks.md": "tests/worker/scheduler/test_webhook_sender.py",
}
# What a page expects to exist.
DATASETS = {
    "docs/models.md": ["digits"],
    "docs/platform.md": ["pets"],
    "docs/tuning.md": ["digits"],
    "docs/deploy.md": ["pets", "digits"],
}
DATASETS["docs/sdk.md"] = DATASETS["docs/tuning.md"]
JOBS = {"docs/models.md": "JOB"}
ADDRESSES = ("http://127.0.0.1:8000", "https://potstill.example")

VIT = {
    "architecture": "vit_tiny_patch16_224",
    "arguments": {"patch_size": 7, "embed_dim": 32, "depth": 2, "num_heads": 2},
}
SPEC = {
    "name": "distilled",
    "dataset": "digits",
    "student": VIT,
    "teachers": [{**VIT, "weights": "train"}],
    "method": {"name": "kd"},
    "training": {"epochs": 2, "batch_size": 16, "image_size": 28},
}
DIGITS = {
    "splits": {"train": {"num_samples": 800}, "test": {"num_samples": 200}},
    "num_classes": 10,
    "classes": [str(digit) for digit in range(10)],
    "channels": 1,
    "image_size": 28,
    "fingerprint": "0" * 64,
    "size_bytes": 1000,
    "files": [],
}
METRICS = {"top1": 0.9, "top5": 1.0, "parameters": 10, "flops": 1e6, "size_bytes": 40, "latency_ms": 1.0}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self):
        return f"{self.page}:{self.line}"


def blocks_of(page):
    text = (ROOT / page).read_text()
    return [Block(page, text.count("\n", 0, each.start()) + 1, each[1], each[2]) for each in FENCE.finditer(text)]


class Worker(threading.Thread):
    """Ends datasets, jobs and pushes that wait. The student of each job is a small ViT with random weights."""

    def __init__(self, server, folder):
        super().__init__()
        self.server, self.folder, self.stopped, self.error = server, folder, threading.Event(), None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *error):
        self.stopped.set()
        self.join()
        assert self.error is None, self.error

    def run(self):
        try:
            while not self.stopped.wait(0.05):
                self.end_all()
        except Exception as error:
            self.error = error
            raise

    def end_all(self):
        with self.server.database.read() as session:  # writes would delay those of the service
            has_datasets, has_jobs = datasets.count_claimable(session), any(jobs.count_queued(session).values())
            has_pushes = outbound.count_due(session, utc_now(session), ["push"], limit=1)
        if has_datasets:
            with self.server.database.write() as session:
                while row := datasets.claim(session, worker_id="wrk_test", lease_seconds=600):
                    labels = {"num_classes": None, "classes": None} if "unlabeled" in row.source.get("name", "") else {}
                    datasets.mark_ready(session, IngestLeaseToken.from_row(row), **DIGITS | labels)
        while has_jobs and (lease := self.claim_job()):
            self.end_job(lease)
        if has_pushes:
            with self.server.database.write() as session:
                now = utc_now(session)
                while task := outbound.claim(session, now, ["push"], lease_seconds=600):
                    _, push = outbound.lock_held(session, task)
                    outbound.finish(session, push, now, result={"commit": "1", "url": "https://hub/acme"})

    def claim_job(self):
        with self.server.database.write() as session:
            job = jobs.claim(session, worker_id="wrk_test", accelerator="cpu", lease_seconds=600)
            return job and LeaseToken.from_job(job)

    def end_job(self, lease):
        prefix = f"jobs/{lease.job_id}/a{lease.attempt}"
        stored = {path.name: self.server.store.put(f"{prefix}/{path.name}", path) for path in self.folder.iterdir()}
        state = self.server.store.put(f"{prefix}/state.pt", self.folder / "config.json")
        artifacts = [NewArtifact(name, "application/octet-stream", file) for name, file in stored.items()]
        result = {"student": METRICS, "teachers": [METRICS], "compressed": [], "agreement": 0.9}
        with self.server.database.write() as session:
            files = [stored["model.safetensors"], stored["config.json"], state]
            checkpoints.save(session, lease, track="distill", step=1200, epoch=1, files=files, metrics={})
        with self.server.database.write() as session:
            jobs.succeed(session, lease, result=result, artifacts=artifacts, model_id=None)


@pytest.fixture(scope="module")
def service(make_server, tmp_path_factory):
    """A service whose datasets and jobs end at once."""
    folder = tmp_path_factory.mktemp("student")
    spec = parse_job_spec(SPEC)
    student = build_student(
        plan_student(spec.student, InputInfo(num_classes=10, channels=1, image_size=28), image_size=28)
    )
    save_folder(
        student.module,
        folder,
        architecture=student.architecture,
        arguments=student.arguments,
        preprocessing=student.preprocessing,
        classes=DIGITS["classes"],
    )
    server = make_server(secret_key="k" * 32)
    with Worker(server, folder):
        yield server


@pytest.fixture(scope="module", autouse=True)
def one_command():
    """Build the command once; typer builds it at each call."""
    command = typer.main.get_command(client_commands)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", lambda _app: command)
        yield


@pytest.fixture
def reader(request, service, tmp_path, monkeypatch):
    """The reader of the page: a project and a folder with the files that pages name."""
    page = request.param
    tenant = service.tenant()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("POTSTILL_URL", service.url)
    monkeypatch.setenv("POTSTILL_API_KEY", tenant.token)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr("getpass.getpass", lambda *_: tenant.token)
    monkeypatch.setattr(runtime, "time", SimpleNamespace(sleep=lambda _seconds: time.sleep(0.1)))
    write_files(tmp_path, tenant.token)
    for name in DATASETS.get(page, []):
        wait_for(tenant.http, "datasets", {"name": name, "source": {"type": "builtin", "name": "digits"}})
    if page in JOBS:
        wait_for(tenant.http, "jobs", SPEC | {"name": JOBS[page]})
    yield Reader(page, tenant)
    tenant.http.close()


def write_files(folder, key):
    (folder / "potstill-home").mkdir()
    (folder / "potstill-home" / "api-key").write_text(key)
    shutil.copytree(ROOT / "examples", folder / "examples")
    (folder / "spec.yaml").write_text(yaml.safe_dump(SPEC))
    content = make_zip({f"{part}/a/{index}.png": b"x" for part in ("part1", "part2") for index in range(2)})
    for name in ("scenes.zip", "flowers.zip", "pets.zip"):
        (folder / name).write_bytes(content)
    (folder / "flowers" / "rose").mkdir(parents=True)
    (folder / "flowers" / "rose" / "1.png").write_bytes(b"x")
    (folder / "job.json").write_text(json.dumps(SPEC))
    outputs = {"student_logits": np.eye(2), "labels": np.zeros(2), "paths": np.array(["a", "b"])}
    np.savez(folder / "predictions.npz", **outputs)


def wait_for(http, kind, document):
    response = http.post(f"/v1/{kind}", json=document)
    assert response.status_code < 300, response.text
    with Potstill(str(http.base_url), http.headers["Authorization"].split()[1]) as client:
        getattr(client, kind).wait(response.json()["id"])


@dataclass
class Reader:
    """Runs the blocks of a page."""

    page: str
    tenant: object
    variables: dict = field(default_factory=dict)

    def run(self, block):
        text = block.text.replace("{…}", json.dumps(SPEC))
        for address in ADDRESSES:
            text = text.replace(address, self.tenant.server.url)
        match block.language:
            case "sh" | "bash":
                for line in text.replace("\\\n", " ").splitlines():
                    self.run_line(line)
                check_variables(self.variables)
            case "python":
                self.run_python(block, text)
            case "json":
                self.check_json(text)
            case "promql":
                names = re.findall(r"potstill_\w+?(?=_count|_bucket|_sum|\b)", text)
                assert names
                assert all(f'"{name}"' in (ROOT / "core/store/counters.py").read_text() for name in names)
            case other:
                assert other in NOT_RUN

    def run_line(self, line):
        environment = {
            "$(cat potstill-home/api-key)": self.tenant.token,
            "$POTSTILL_API_KEY": self.tenant.token,
            "$POTSTILL_URL": self.tenant.server.url,
            "$HF_TOKEN": "hf_secret",
        }
        for name, value in environment.items():
            line = line.replace(name, value)
        for command in re.split(r"\s&&\s", line):
            words = shlex.split(command, comments=True)
            if words and words[0] == "export":
                words = words[1:]
            if words:
                self.run_command(words, command)

    def run_command(self, words, command):
        program, *arguments = words
        program = program.removeprefix(".venv/bin/")
        if re.match(r"[A-Z_]+=", program):
            self.variables |= dict(word.split("=", 1) for word in words)
        elif program == "potstill" and not arguments[0].startswith("-"):
            run_potstill(arguments)
        elif program == "curl":
            self.run_curl(command)
        elif program in COMMANDS:
            check_command(program, arguments)
        elif program == "python":
            assert arguments[:2] == ["-m", "core"], arguments
            check_command("python -m core", arguments[2:])
        elif program == "make":
            assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), arguments
        elif program == "pip":
            check_extras(arguments[-1])
        else:
            assert program in NOT_RUN, f"{command}: run it, or give the reason in NOT_RUN"
            paths = [word for word in arguments if word.startswith(("deploy/kubernetes", "deploy/slurm"))]
            assert all((ROOT / path).exists() for path in paths), paths

    def run_curl(self, command):
        method, url, headers, data, form = parse_curl(command, {})
        sent = {"content": data.encode()} if data else {}
        if form:
            sent["files"] = {
                name: (value[1:], Path(value[1:]).read_bytes()) if value.startswith("@") else (None, value)
                for name, value in form.items()
            }
        response = httpx.request(method, url, headers=headers, timeout=60, trust_env=False, **sent)
        assert response.status_code < 300, response.text

    def run_python(self, block, text):
        if block.page in RUN_ELSEWHERE:
            assert Path(block.page).name in (ROOT / RUN_ELSEWHERE[block.page]).read_text()
            return
        if block.page == "docs/extending.md" and "NAME" not in text:
            assert_excerpt(text)
            return
        with Potstill() as client:
            scope = {"client": client, "spec": SPEC, "key": self.tenant.token, "AsyncPotstill": AsyncPotstill}
            scope |= {"HalveParams": PruneParams} | vars(core.compress)
            scope |= vars(core.export.onnx_file)
            code = compile(text, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            running = eval(code, scope)
            if running is not None:
                asyncio.run(running)

    def check_json(self, text):
        document = json.loads(text if text.startswith("{") else f"{{{text}}}")
        if "mcpServers" in document:
            (server,) = document["mcpServers"].values()
            check_command(server["command"], server["args"])
        elif "source" in document:
            DatasetCreate.model_validate(document)
        elif "spec" in document:
            response = self.tenant.http.post("/v1/sweeps/estimate", json=document)
            assert response.status_code == 200, response.text
        elif "timestamp" in document:
            assert document["type"] in WEBHOOK_EVENTS
        elif set(document) <= set(JobSpec.model_fields):
            parse_job_spec(document if {"student", "method"} <= set(document) else merged(SPEC, document))
        else:
            parse_job_spec(SPEC | {"compression": [document]})


def merged(base, patch):
    """Objects are merged, other values replaced."""
    both = {
        name: merged(base[name], value)
        for name, value in patch.items()
        if isinstance(base.get(name), dict) and isinstance(value, dict) and name not in ("student", "method")
    }
    return base | patch | both


def run_potstill(arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["potstill", *arguments])
        with pytest.raises(SystemExit) as caught:
            app.main()
    assert not caught.value.code, shlex.join(arguments)


COMMANDS = {
    "potstill": typer.main.get_command(client_commands),
    "potstill-server": typer.main.get_command(server.cli.app),
    "python -m core": typer.main.get_command(core.__main__.app),
}


def check_command(program, words, *, is_complete=True):
    """Parse a command line with the program's own parser. The words of an incomplete one must exist."""
    command = COMMANDS[program]
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    if hasattr(command, "commands"):
        assert all(word.startswith("-") for word in words), words
    if is_complete and not hasattr(command, "commands"):
        command.make_context(program, list(words))
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word.partition("=")[0] for word in words if word.startswith("-")} <= options, words


def check_variables(variables):
    """The variables are those of the client, or of the service, which accepts their values."""
    own = {"POTSTILL_URL", "POTSTILL_API_KEY", *NOT_RUN}
    settings = {name: value for name, value in variables.items() if name not in own}
    assert {name.removeprefix("POTSTILL_").lower() for name in settings} <= set(Settings.model_fields)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        Settings()


def check_extras(requirement):
    name, extra = re.fullmatch(r"([\w-]+)\[(\w+)\]", requirement).groups()
    projects = [tomllib.loads((ROOT / each / "pyproject.toml").read_text())["project"] for each in (".", "client")]
    (project,) = [each for each in projects if each["name"] == name]
    assert extra in project["optional-dependencies"]


def assert_excerpt(text):
    """The lines stand in the product; `…` is any text."""
    pattern = re.escape("".join(text.split())).replace("…", ".*?").replace(r"\)", r",?\)")
    files = [path for room in ("api", "core") for path in (ROOT / room).rglob("*.py")]
    assert any(re.search(pattern, "".join(path.read_text().split())) for path in files), text


@pytest.mark.filterwarnings("ignore:unclosed file <_io.BufferedReader name='pets.zip'>")  # of tuspy
@pytest.mark.parametrize("reader", [page for page in PAGES if blocks_of(page)], indirect=True)
def test_the_blocks_of_a_page_run(reader):
    for block in blocks_of(reader.page):
        reader.run(block)


def test_the_specs_of_the_methods_are_valid():
    blocks = [block for path in (ROOT / "docs" / "methods").glob("*.md") for block in blocks_of(path.relative_to(ROOT))]
    assert len(blocks) > 40
    for block in blocks:
        assert block.language == "json", block
        document = json.loads(block.text)
        parse_job_spec(document if "student" in document else merged(SPEC, document))


def test_the_commands_in_sentences_exist():
    commands = [command for page in PAGES for command in INLINE.findall((ROOT / page).read_text())]
    assert len(commands) > 20
    for command in commands:
        program, *words = shlex.split(command)
        if words[0].endswith(","):  # a list of commands
            for word in words:
                check_command(program, [word.rstrip(",")], is_complete=False)
        elif program == "make":
            assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command
        else:
            program, words = ("python -m core", words[2:]) if program == "python" else (program, words)
            check_command(program, words, is_complete=False)

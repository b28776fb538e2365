"""An MCP server: agents use the service through tools. Started by ``potstill mcp``; needs the extra ``mcp``.

Without ``allow_writes`` there are only tools that read. Tools return the documents of the API; errors of the service
become tool errors with code, detail and fields.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TextIO

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations

from potstill._async.client import AsyncPotstill
from potstill.configuration import create_private_file
from potstill.dataset_source import parse_source
from potstill.documents import Measured
from potstill.errors import ApiError, InvalidArgument, NotConfigured, PotstillError

_MAX_WAIT_SECONDS = 50
_INSTRUCTIONS = """Potstill distills a large vision model (teacher) into a small one (student) on a dataset of images.
Usual order: list_methods and search_architectures, estimate_job until its warnings are understood, submit_job,
watch_job until the job is terminal, compare_jobs, download_student or push_student. With create_webhook before
submit_job the service calls a URL at the end of a job, so nothing has to wait for it. A job spec names dataset,
student, method, and teachers where the method needs them; get_method has an example. Ids may be unique names or
unique id prefixes."""

Tool = Callable[..., Awaitable[Any]]


def build_server(client: AsyncPotstill, *, allow_writes: bool = False) -> MCPServer:
    """Return the server. The caller closes the client."""
    from potstill import __version__  # late: the package's root imports much of it

    server: MCPServer = MCPServer("potstill", instructions=_INSTRUCTIONS, version=__version__)
    get_sweep, submit_sweep = _sweep_tools(client)
    reading, writing = _webhook_tools(client)
    for tool in (*_reading_tools(client), get_sweep, *reading):
        _add(server, tool, ToolAnnotations(read_only_hint=True, open_world_hint=False))
    if allow_writes:
        for tool in (*_writing_tools(client), submit_sweep, *writing):
            _add(server, tool, ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False))
    return server


def _add(server: MCPServer, tool: Tool, annotations: ToolAnnotations) -> None:
    @functools.wraps(tool)
    async def run(*arguments: Any, **keywords: Any) -> Any:
        try:
            return await tool(*arguments, **keywords)
        except PotstillError as error:
            raise ToolError(_describe(error)) from error

    server.tool(annotations=annotations)(run)


def _reading_tools(client: AsyncPotstill) -> Sequence[Tool]:  # noqa: C901 - one function for each tool
    async def list_methods(search: str = "") -> list[dict[str, Any]]:
        """List the methods whose name or description contains a text, with their cost and when to choose them."""
        found = await client.methods.list()
        chosen = [each for each in found if search.lower() in f"{each.name} {each.summary} {each.when}".lower()]
        return [{"name": e.name, "summary": e.summary, "when": e.when, "year": e.year, "cost": e.cost} for e in chosen]

    async def get_method(name: str) -> dict[str, Any]:
        """Get a method: its needs, its parameters as JSON Schema, and an example of a job."""
        return (await client.methods.get(name)).to_dict()

    async def search_architectures(search: str, limit: int = 20) -> list[dict[str, Any]]:
        """Search the timm architectures that can be teachers and students, best match first."""
        return [each.to_dict() for each in await client.architectures.list(search, limit=limit)]

    async def list_datasets(limit: int = 20) -> list[dict[str, Any]]:
        """List the newest datasets."""
        return [each.to_dict() async for each in client.datasets.list(limit=limit)]

    async def list_models(limit: int = 20) -> list[dict[str, Any]]:
        """List the newest models: uploaded weights, and the students of jobs."""
        return [each.to_dict() async for each in client.models.list(limit=limit)]

    async def list_jobs(status: str | None = None, limit: int = 20) -> list[dict[str, Any]]:
        """List the newest jobs with status, progress and accuracy."""
        return [_job_summary(each) async for each in client.jobs.list(status=status, limit=limit)]

    async def get_job(job_id: str) -> dict[str, Any]:
        """Get a job completely: spec, progress, warnings, error with advice, result."""
        return (await client.jobs.get(job_id)).to_dict()

    async def watch_job(job_id: str, wait_seconds: int = _MAX_WAIT_SECONDS) -> dict[str, Any]:
        """Wait until a job is terminal, at most 50 seconds, and return its state. Call it again while it runs."""
        return _job_summary(await client.jobs.get(job_id, wait_seconds=max(0, min(wait_seconds, _MAX_WAIT_SECONDS))))

    async def job_events(job_id: str, after_seq: int = 0) -> list[dict[str, Any]]:
        """List what happened to a job after an event's number, oldest first."""
        return [each.to_dict() async for each in client.jobs.past_events(job_id) if each.seq > after_seq]

    async def job_metrics(job_id: str, name: str | None = None, max_points: int = 50) -> dict[str, Any]:
        """Get the metric series of a job as pairs of step and value, each reduced to a number of points."""
        return (await client.jobs.metrics(job_id, name=name, max_points=max_points)).to_dict()

    async def compare_jobs(job_ids: list[str]) -> list[dict[str, Any]]:
        """Compare jobs: method, accuracy, size and latency of the students, and duration."""
        return [_comparison(await client.jobs.get(job_id)) for job_id in job_ids]

    async def estimate_job(spec: dict[str, Any]) -> dict[str, Any]:
        """Estimate duration, memory and sizes of a job, with warnings and fixes; nothing is submitted."""
        return (await client.jobs.estimate(spec)).to_dict()

    async def get_usage() -> dict[str, Any]:
        """Get the usage and limits of the project, and the workers with their devices."""
        usage, workers = await client.service.usage(), await client.service.workers()
        return {"usage": usage.to_dict(), "workers": workers.to_dict()}

    return (
        *(list_methods, get_method, search_architectures, list_datasets, list_models, list_jobs, get_job),
        *(watch_job, job_events, job_metrics, compare_jobs, estimate_job, get_usage),
    )


def _sweep_tools(client: AsyncPotstill) -> tuple[Tool, Tool]:
    """Return the tool that reads a sweep, and the one that submits one."""

    async def get_sweep(sweep_id: str) -> dict[str, Any]:
        """Get a sweep: its jobs with their varied values and figures, and the Pareto fronts of accuracy and cost."""
        return (await client.sweeps.get(sweep_id)).to_dict()

    async def submit_sweep(spec: dict[str, Any], grid: dict[str, list[Any]], name: str | None = None) -> dict[str, Any]:
        """Submit a job for each combination of a grid such as {"training.epochs": [20, 40]} over a job spec."""
        return (await client.sweeps.create(spec, grid, name=name)).to_dict()

    return get_sweep, submit_sweep


def _webhook_tools(client: AsyncPotstill) -> tuple[Sequence[Tool], Sequence[Tool]]:
    """Return the tools that read webhooks and their deliveries, and those that create and test them."""

    async def list_webhooks(limit: int = 20) -> list[dict[str, Any]]:
        """List the newest webhooks: requests of the service to a URL, one for each event."""
        return [each.to_dict() async for each in client.webhooks.list(limit=limit)]

    async def list_deliveries(webhook_id: str, status: str | None = None, limit: int = 20) -> list[dict[str, Any]]:
        """List what a webhook has sent, newest first, with the response to each attempt."""
        found = client.webhooks.deliveries(webhook_id, status=status, limit=limit)
        return [each.to_dict() async for each in found]

    async def create_webhook(
        url: str, secret_file: str, events: list[str] | None = None, job_id: str | None = None, name: str | None = None
    ) -> dict[str, Any]:
        """Create a webhook. Its secret is written to a new file, which the receiver reads; it is not returned.

        Events: job.succeeded, job.failed, job.cancelled (the default), tracking.finished (MLflow has the student),
        sweep.finished, … With job_id only events of that job.
        """
        with _new_secret_file(Path(secret_file)) as file:
            created = await client.webhooks.create(url, events=events, job=job_id, name=name)
            file.write(created.secret or "")
        return {**created.to_dict(), "secret": None, "secret_file": secret_file}

    async def test_webhook(webhook_id: str) -> dict[str, Any]:
        """Send a delivery of the type webhook.test."""
        return (await client.webhooks.test(webhook_id)).to_dict()

    return (list_webhooks, list_deliveries), (create_webhook, test_webhook)


@contextmanager
def _new_secret_file(path: Path) -> Iterator[TextIO]:
    """Create a private file; delete it if the block fails. Raises :class:`InvalidArgument` if there is such a file."""
    try:
        file = create_private_file(path)
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be created: {error.strerror}") from error
    with file:
        try:
            yield file
        except BaseException:
            path.unlink()
            raise


def _writing_tools(client: AsyncPotstill) -> Sequence[Tool]:
    async def submit_job(spec: dict[str, Any]) -> dict[str, Any]:
        """Estimate a job and submit it. Returns the estimate and the job; estimate_job first tells what to expect."""
        estimate = await client.jobs.estimate(spec)
        job = await client.jobs.create(spec)
        return {"estimate": estimate.to_dict(), "job": _job_summary(job)}

    async def change_job(job_id: str, action: Literal["cancel", "pause", "resume", "stop"]) -> dict[str, Any]:
        """Cancel, pause or resume a job, or stop its training early and export the student."""
        return _job_summary(await client.jobs.post_action(job_id, action))

    async def retry_job(
        job_id: str,
        *,
        apply_fix: bool = False,
        changes: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Retry a failed or cancelled job; apply the fix of its error, or a merge patch of its spec."""
        return _job_summary(await client.jobs.retry(job_id, apply_fix=apply_fix, changes=changes))

    async def add_dataset(source: str, name: str | None = None) -> dict[str, Any]:
        """Add a dataset and wait until it is ready: a local path, or a source as text.

        Sources: builtin:digits, builtin:mnist-5k, builtin:mnist-300 (300 labels), builtin:mnist-unlabeled, an https
        URL, s3://BUCKET/KEY, or hf:OWNER/NAME@REVISION of the Hugging Face hub.
        """
        found = parse_source(source)
        if found is None:
            dataset = await client.datasets.upload(source, name=name)
        else:
            dataset = await client.datasets.create(found, name=name)
        return (await dataset.wait()).to_dict()

    async def download_student(job_id: str, folder: str, names: list[str] | None = None) -> list[str]:
        """Download the files of a job, or those with these names, to a local folder; their SHA-256 is verified."""
        return [str(path) for path in await client.jobs.download(job_id, Path(folder), names=names)]

    async def push_student(
        job_id: str, repo: str, *, private: bool = True, license_name: str | None = None
    ) -> dict[str, Any]:
        """Push the student to a repository owner/name of the Hugging Face hub. The token is this server's HF_TOKEN."""
        token = os.environ.get("HF_TOKEN")
        if not token:
            raise NotConfigured("set HF_TOKEN in the environment of `potstill mcp`")
        push = await client.jobs.push(job_id, repo, token=token, private=private, license=license_name)
        return (await client.jobs.wait_for_push(job_id, push.id)).to_dict()

    return submit_job, change_job, retry_job, add_dataset, download_student, push_student


def _job_summary(job: Any) -> dict[str, Any]:
    fields = ("id", "name", "status", "terminal", "stage", "next_actions", "pending_action", "waiting_reason")
    document: Mapping[str, Any] = job.to_dict()
    return {
        **{field: document[field] for field in fields},
        **{field: document[field] for field in ("progress", "warnings", "error", "result")},
    }


def _comparison(job: Any) -> dict[str, Any]:
    student: Measured | None = job.result.student if job.result is not None else None
    started, finished = job.started_at, job.finished_at
    return {
        "id": job.id,
        "name": job.name,
        "status": job.status,
        "method": job.spec.get("method"),
        "student": student.to_dict() if student is not None else None,
        "agreement": job.result.agreement if job.result is not None else None,
        "seconds": (finished - started).total_seconds() if started and finished else None,
    }


def _describe(error: PotstillError) -> str:
    if not isinstance(error, ApiError):
        return str(error)
    fields = [f"{field.get('pointer') or '/'}: {field.get('detail')}" for field in error.errors]
    return "\n".join([f"{error.code}: {error.detail}", *(text for text in fields if text not in error.detail)])

"""``potstill jobs push`` and ``potstill jobs pushes``."""

from __future__ import annotations

from typing import Annotated

import typer

from potstill.cli.console import err, out, print_json
from potstill.cli.options import AsJson, JobId, Limit, connect
from potstill.cli.tables import Column, print_table, status_text
from potstill.documents import Push
from potstill.formats import format_age

_EXIT_UNSUCCESSFUL = 1


def register(app: typer.Typer) -> None:
    """Add the commands to the group ``jobs``."""
    for command in (push, pushes):
        app.command(command.__name__)(command)


def push(
    job_id: JobId,
    repo: Annotated[str, typer.Argument(metavar="REPO", help="Model repository of the Hugging Face hub: owner/name.")],
    *,
    token: Annotated[
        str,
        typer.Option(envvar="HF_TOKEN", prompt="Token of the hub", hide_input=True, help="Token that may write to it."),
    ],
    public: Annotated[bool, typer.Option("--public", help="Create a new repository as a public one.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch. Default: main.")] = None,
    file: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="Only this file; repeatable. Default: all.")
    ] = None,
    license_: Annotated[str | None, typer.Option("--license", help="License of the model, for its card.")] = None,
    message: Annotated[str | None, typer.Option(help="Message of the commit.")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the push has ended.")] = True,
    as_json: AsJson = False,
) -> None:
    """Push the student of a job, with its model card, to the Hugging Face hub."""
    with connect() as client:
        found = client.jobs.push(
            job_id,
            repo,
            token=token,
            private=not public,
            revision=revision,
            files=file or None,
            license=license_,
            message=message,
        )
        if wait:
            try:
                found = client.jobs.wait_for_push(job_id, found.id)
            except KeyboardInterrupt:
                err.print(f"\nThe push goes on. List it: potstill jobs pushes {job_id}", markup=False)
                raise typer.Exit(130) from None
    if as_json:
        print_json(found)
    else:
        out.print(_describe(found), markup=False)
    if found.status == "failed":
        raise typer.Exit(_EXIT_UNSUCCESSFUL)


def pushes(job_id: JobId, limit: Limit = 20, *, as_json: AsJson = False) -> None:
    """List the pushes of a job to the Hugging Face hub, newest first."""
    with connect() as client:
        found = list(client.jobs.pushes(job_id, limit=limit))
    if as_json:
        print_json(found)
        return
    columns = (
        Column("push"),
        Column("repository", wraps=True),
        Column("status"),
        Column("commit or error", wraps=True, optional=1),
        Column("created", optional=2),
    )
    rows = [
        (
            each.id,
            each.repo,
            status_text(each.status),
            each.commit or ("" if each.error is None else each.error.message),
            format_age(each.created_at),
        )
        for each in found
    ]
    print_table(columns, rows)


def _describe(found: Push) -> str:
    if found.status == "succeeded":
        return f"Pushed to {found.repo}: {found.url}"
    if found.status == "failed" and found.error is not None:
        return f"The push to {found.repo} failed ({found.error.code}): {found.error.message}"
    return f"{found.id} is {found.status}; list it: potstill jobs pushes {found.job}"

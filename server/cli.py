"""``potstill-server``: every process of the service, and all of them embedded.

Each command imports what it needs when it runs: the API must start without torch, the supervisor
without either, and an image holds only the packages of its own role.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
keys = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys.")
app.add_typer(keys, name="keys")
projects = typer.Typer(no_args_is_help=True, help="Make projects, and give them limits of their own.")
app.add_typer(projects, name="projects")

Home = Annotated[
    Path | None,
    typer.Option(help="Folder for all state of this machine. Default: POTSTILL_HOME, else ./potstill-home."),
]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")]


@app.command()
def up(
    home: Home = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Jobs that run at the same time.")] = 1,
) -> None:
    """Run the whole stack in the foreground: API, workers, inspector, scheduler and a broker of its own."""
    from server.embedded import StackOptions  # the other roles do without it
    from server.embedded import up as run
    from server.home_lock import CannotStart

    try:
        run(StackOptions(_home(home), host, port, workers))
    except CannotStart as error:
        typer.echo(f"potstill-server: {error}", err=True)
        raise typer.Exit(1) from None


@app.command()
def api(home: Home = None, host: Host = "127.0.0.1", port: Port = 8000) -> None:
    """Serve HTTP."""
    _home(home)
    from server.roles import serve_api

    serve_api(host, port)


@app.command()
def worker(
    home: Home = None,
    queues: Annotated[
        str, typer.Option(help="`jobs` (this machine's accelerator), `ingest`, or the name of a queue.")
    ] = "jobs",
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Pieces of work at the same time.")] = 1,
) -> None:
    """Run jobs, or take datasets and models in."""
    _home(home)
    from server.roles import serve_queue

    raise typer.Exit(serve_queue(queues, concurrency))


@app.command()
def inspector(home: Home = None) -> None:
    """Answer the API's questions about specs and architectures."""
    _home(home)
    from server.roles import serve_queue

    raise typer.Exit(serve_queue("inspect", 1))


@app.command()
def scheduler(home: Home = None) -> None:
    """Take back what lost its worker, wake workers up, and collect what nobody needs."""
    _home(home)
    from server.roles import serve_scheduler

    serve_scheduler()


@app.command()
def migrate(home: Home = None) -> None:
    """Bring the database to this version's schema. Safe to run twice, and from two places at once."""
    _home(home)
    from server.roles import migrate_database

    migrate_database()


@app.command()
def backup(
    to: Annotated[Path, typer.Option(help="Folder for the backup. What an earlier one left there is kept and used.")],
    home: Home = None,
) -> None:
    """Copy database and artefacts into a folder, while the service runs or not; see docs/operations.md."""
    _home(home)
    from core.settings import load_settings
    from server.backup import back_up
    from server.home_lock import CannotStart

    try:
        made = back_up(load_settings(), to.resolve())
    except CannotStart as error:
        typer.echo(f"potstill-server: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{to}: {made.num_files} files ({made.num_copied} new), {made.num_bytes:,} bytes, and the database")


@app.command(hidden=True)
def prepare(home: Home = None) -> None:
    """What `up` does before anything else: migrate, and make the first key."""
    _home(home)
    from server.roles import prepare_home

    prepare_home()


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="What the key is for.")] = "command line",
    scopes: Annotated[str, typer.Option(help="Comma-separated: read, write, admin.")] = "read,write,admin",
    project: Annotated[str | None, typer.Option(help="The project's id. Default: the first one.")] = None,
    days: Annotated[float | None, typer.Option(min=0.0, help="For how long it is good. Default: for ever.")] = None,
    home: Home = None,
) -> None:
    """Make a key and print it. It is stored hashed, so this is the only time that it is shown."""
    _home(home)
    from server.keys import create

    typer.echo(create(name=name, scopes=scopes.split(","), project=project, days=days))


@keys.command("list")
def list_keys(home: Home = None) -> None:
    """List the keys: id, prefix, name, scopes, when it was made, last used and revoked."""
    _home(home)
    from server.keys import lines

    for line in lines():
        typer.echo(line)


@keys.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(help="`key_…`, as listed.")], home: Home = None) -> None:
    """Make a key useless, at once and for good."""
    _home(home)
    from server.keys import revoke

    revoke(key_id)


@projects.command("list")
def list_projects(home: Home = None) -> None:
    """List the projects: id, name, what they store, and their own limits."""
    _home(home)
    from server.projects import lines

    for line in lines():
        typer.echo(line)


@projects.command("create")
def create_project(name: Annotated[str, typer.Argument(help="What to call it.")], home: Home = None) -> None:
    """Make a project and print its id; `keys create --project ID` makes a key for it."""
    _home(home)
    from server.projects import create

    typer.echo(create(name))


@projects.command("set")
def set_project(
    project_id: Annotated[str, typer.Argument(help="`prj_…`, as listed.")],
    jobs: Annotated[str | None, typer.Option(help="Unfinished jobs. A number, 0 for no limit, or `default`.")] = None,
    stored_bytes: Annotated[
        str | None, typer.Option(help="Bytes of datasets, models, artefacts and checkpoints; likewise.")
    ] = None,
    upload_bytes: Annotated[
        str | None, typer.Option(help="Largest file of an upload, at most POTSTILL_MAX_UPLOAD_BYTES; or `default`.")
    ] = None,
    home: Home = None,
) -> None:
    """Give a project limits of its own; what is left out stays as it is. They hold from the next request on."""
    _home(home)
    from server.projects import set_limits

    set_limits(project_id, max_jobs=jobs, max_stored_bytes=stored_bytes, max_upload_bytes=upload_bytes)


def main() -> None:
    """Run the command line; domain errors become one line on standard error."""
    from core.errors import PotstillError

    try:
        app(prog_name="potstill-server")
    except PotstillError as error:
        print(f"potstill-server: {error.detail}", file=sys.stderr)
        raise SystemExit(1) from None


def _home(home: Path | None) -> Path:
    """The folder, absolute. Settings are read from the environment, so that is where it goes."""
    folder = (home or Path(os.environ.get("POTSTILL_HOME", "potstill-home"))).resolve()
    os.environ["POTSTILL_HOME"] = str(folder)
    return folder

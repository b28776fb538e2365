"""``potstill-server``: run the service as one embedded stack or process by process.

Commands import lazily: the API starts without torch, the supervisor without torch and the API, and each image
contains only the packages of its role.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

_INSTALL = 'potstill-server: the package {name} is not installed; run pip install "potstill-server[embedded]"'

try:
    import typer
except ModuleNotFoundError:
    raise SystemExit(_INSTALL.format(name="typer")) from None

_OWN_PACKAGES = frozenset({"api", "core", "migrations", "potstill_models", "server", "worker"})
_HELP = "Run the Potstill service, as one embedded stack or process by process."

app = typer.Typer(no_args_is_help=True, add_completion=False, help=_HELP, pretty_exceptions_enable=False)
keys = typer.Typer(no_args_is_help=True, help="Create, list and revoke API keys.")
app.add_typer(keys, name="keys")
projects = typer.Typer(no_args_is_help=True, help="Create projects and set their limits.")
app.add_typer(projects, name="projects")

Home = Annotated[
    Path | None,
    typer.Option(help="Folder for all local state. Default: POTSTILL_HOME, else ./potstill-home."),
]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")]


@app.command()
def up(
    home: Home = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Number of concurrent jobs.")] = 1,
) -> None:
    """Run the full stack in the foreground: API, workers, inspector, scheduler and broker."""
    from server.embedded import StackOptions  # not needed by other roles
    from server.embedded import up as run
    from server.home_lock import CannotStart

    try:
        run(StackOptions(_home(home), host, port, workers))
    except CannotStart as error:
        typer.echo(f"potstill-server: {error}", err=True)
        raise typer.Exit(1) from None


@app.command()
def api(home: Home = None, host: Host = "127.0.0.1", port: Port = 8000) -> None:
    """Run the HTTP API."""
    _home(home)
    from server.roles import serve_api

    serve_api(host, port)


@app.command()
def worker(
    home: Home = None,
    queues: Annotated[
        str, typer.Option(help="`jobs` (for this machine's accelerator), `ingest`, or a queue name.")
    ] = "jobs",
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Number of concurrent tasks.")] = 1,
) -> None:
    """Run jobs, or ingest datasets and models."""
    _home(home)
    from server.roles import serve_queue

    raise typer.Exit(serve_queue(queues, concurrency))


@app.command()
def inspector(home: Home = None) -> None:
    """Check specs and architectures for the API."""
    _home(home)
    from server.roles import serve_queue

    raise typer.Exit(serve_queue("inspect", 1))


@app.command()
def scheduler(home: Home = None) -> None:
    """Requeue expired leases, wake workers, and delete unreferenced files."""
    _home(home)
    from server.roles import serve_scheduler

    serve_scheduler()


@app.command()
def migrate(home: Home = None) -> None:
    """Migrate the database to this version's schema. Safe to repeat and to run concurrently."""
    _home(home)
    from server.roles import migrate_database

    migrate_database()


@app.command()
def backup(
    to: Annotated[Path, typer.Option(help="Folder for the backup. Files of an earlier backup are reused.")],
    home: Home = None,
) -> None:
    """Copy database and artifacts into a folder; the service may be running. See docs/operations.md."""
    _home(home)
    from core.settings import load_settings
    from server.backup import back_up
    from server.home_lock import CannotStart

    try:
        result = back_up(load_settings(), to.resolve())
    except CannotStart as error:
        typer.echo(f"potstill-server: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(
        f"{to}: {result.num_files} files ({result.num_copied} new), {result.num_bytes:,} bytes, and the database"
    )


@app.command(hidden=True)
def prepare(home: Home = None) -> None:
    """Migrate the database and create the first key; `up` runs this first."""
    _home(home)
    from server.roles import prepare_home

    prepare_home()


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="Name of the key.")] = "command line",
    scopes: Annotated[str, typer.Option(help="Comma-separated: read, write, admin.")] = "read,write,admin",
    project: Annotated[str | None, typer.Option(help="Project id. Default: the first project.")] = None,
    days: Annotated[float | None, typer.Option(min=0.0, help="Days until it expires. Default: never.")] = None,
    home: Home = None,
) -> None:
    """Create a key and print its token. Only a hash is stored, so the token is shown only once."""
    _home(home)
    from server.keys import create

    typer.echo(create(name=name, scopes=scopes.split(","), project=project, days=days))


@keys.command("list")
def list_keys(home: Home = None) -> None:
    """List the keys: id, prefix, project, scopes, name, last use or revocation, expiry."""
    _home(home)
    from server.keys import lines

    for line in lines():
        typer.echo(line)


@keys.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(help="Key id (`key_…`).")], home: Home = None) -> None:
    """Revoke a key immediately and permanently."""
    _home(home)
    from server.keys import revoke

    revoke(key_id)


@projects.command("list")
def list_projects(home: Home = None) -> None:
    """List the projects: id, name, usage and limits."""
    _home(home)
    from server.projects import lines

    for line in lines():
        typer.echo(line)


@projects.command("create")
def create_project(name: Annotated[str, typer.Argument(help="Name of the project.")], home: Home = None) -> None:
    """Create a project and print its id; `keys create --project ID` creates a key for it."""
    _home(home)
    from server.projects import create

    typer.echo(create(name))


@projects.command("set")
def set_project(
    project_id: Annotated[str, typer.Argument(help="Project id (`prj_…`).")],
    jobs: Annotated[
        str | None, typer.Option(help="Maximum number of unfinished jobs: a number, 0 for no limit, or `default`.")
    ] = None,
    stored_bytes: Annotated[
        str | None,
        typer.Option(help="Maximum bytes of datasets, models, uploads, artifacts and checkpoints: as above."),
    ] = None,
    upload_bytes: Annotated[
        str | None,
        typer.Option(help="Maximum bytes of an uploaded file, up to POTSTILL_MAX_UPLOAD_BYTES, or `default`."),
    ] = None,
    home: Home = None,
) -> None:
    """Set limits of a project. Omitted limits stay unchanged; changes apply from the next request."""
    _home(home)
    from server.projects import set_limits

    set_limits(project_id, max_jobs=jobs, max_stored_bytes=stored_bytes, max_upload_bytes=upload_bytes)


def main() -> None:
    """Run the command line; print domain errors as one line on standard error."""
    from core.errors import PotstillError

    try:
        app(prog_name="potstill-server")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in _OWN_PACKAGES:
            raise
        print(_INSTALL.format(name=error.name), file=sys.stderr)
        raise SystemExit(1) from None
    except PotstillError as error:
        print(f"potstill-server: {error.detail}", file=sys.stderr)
        raise SystemExit(1) from None


def _home(home: Path | None) -> Path:
    """Return the absolute home folder and set POTSTILL_HOME, from which the settings are read."""
    folder = (home or Path(os.environ.get("POTSTILL_HOME", "potstill-home"))).resolve()
    os.environ["POTSTILL_HOME"] = str(folder)
    return folder

"""``potstill models``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from potstill._sync.models import Model
from potstill.cli.console import out, print_json, print_removed, print_warnings
from potstill.cli.options import AsJson, Limit, ModelId, connect
from potstill.cli.spec_files import read_json_option
from potstill.cli.tables import Column, print_table, status_text
from potstill.formats import escape_text, format_age, format_bytes, format_count, format_quantity

app = typer.Typer(no_args_is_help=True, help="Manage models: uploaded weights, and the students of jobs.")

_COLUMNS = (
    Column("model"),
    Column("name", wraps=True),
    Column("status"),
    Column("architecture", optional=1),
    Column("parameters", justify="right", optional=2),
    Column("classes", justify="right", optional=4),
    Column("created", optional=3),
)


@app.command("add")
def add(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A safetensors file.")],
    *,
    architecture: Annotated[str, typer.Option("--architecture", "-a", help="Its timm architecture.")],
    arguments: Annotated[
        str | None, typer.Option(help="JSON object: arguments of timm.create_model, e.g. '{\"num_classes\": 10}'.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model. Default: the file's name.")] = None,
    normalization: Annotated[
        str | None, typer.Option(help='JSON object: {"mean": [...], "std": [...]}, one number per channel.')
    ] = None,
    classes: Annotated[str | None, typer.Option(help="Names of the classes, separated by commas.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait until it is checked.")] = True,
    as_json: AsJson = False,
) -> None:
    """Upload a model and wait until it is checked."""
    with connect() as client:
        model = client.models.upload(
            file,
            architecture=architecture,
            arguments=read_json_option("--arguments", arguments),
            name=name,
            normalization=read_json_option("--normalization", normalization),
            classes=None if classes is None else [each.strip() for each in classes.split(",")],
            progress=True,
        )
        if wait:
            model = model.wait()
    _show(model, as_json=as_json)


@app.command("list")
def list_models(
    *,
    search: Annotated[str | None, typer.Option(help="Words of the name, id or architecture.")] = None,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """List models, newest first."""
    with connect() as client:
        models = list(client.models.list(search=search, limit=limit))
    if as_json:
        print_json(models)
    elif models:
        rows = [
            (
                model.id,
                model.name or "—",
                status_text(model.status),
                model.architecture,
                format_quantity(model.parameters),
                format_count(model.num_classes),
                format_age(model.created_at),
            )
            for model in models
        ]
        print_table(_COLUMNS, rows)
    elif search:
        out.print("No model matches.")
    else:
        out.print("No models yet. Each job that succeeds makes one.")


@app.command("show")
def show(model_id: ModelId, *, as_json: AsJson = False) -> None:
    """Show one model."""
    with connect() as client:
        model = client.models.get(model_id)
    _show(model, as_json=as_json)


@app.command("lineage")
def lineage(model_id: ModelId, *, as_json: AsJson = False) -> None:
    """Show what a model was made from, and what was made from it."""
    with connect() as client:
        found = client.models.lineage(model_id)
    if as_json:
        print_json(found)
        return
    labels = {node.id: f"{node.object} {node.name or node.id}" for node in found.nodes}
    rows = [
        (labels.get(edge.source, edge.source), edge.role.replace("_", " "), labels.get(edge.target, edge.target))
        for edge in found.edges
    ]
    print_table((Column("source", wraps=True), Column("role"), Column("target", wraps=True)), rows)
    if found.truncated:
        out.print("  [dim]and more[/]")


@app.command("delete")
def delete(model_id: ModelId, *, as_json: AsJson = False) -> None:
    """Delete a model that no job uses."""
    with connect() as client:
        client.models.delete(model_id)
    print_removed(model_id, f"Deleted {model_id}", as_json=as_json)


def _show(model: Model, *, as_json: bool) -> None:
    if as_json:
        print_json(model)
        return
    out.print(f"[bold]{model.id}[/]  {escape_text(model.name)}  ", status_text(model.status))
    facts = [
        model.architecture,
        f"{format_quantity(model.parameters)} parameters",
        format_bytes(model.size_bytes),
        f"{format_count(model.num_classes)} classes",
        f"{model.image_size or '—'} pixels",
    ]
    out.print(f"  {escape_text(', '.join(facts))}")
    if model.job:
        out.print(f"  student of {model.job}")
    if model.error:
        out.print(f"  [red]{escape_text(model.error.message)}[/]")
    print_warnings(model.warnings)

"""``potstill datasets``."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import typer

from client.configuration import connect
from client.console import (
    dataset_table,
    err,
    escape_text,
    format_count,
    format_ingest_progress,
    out,
    print_json,
    print_warnings,
)
from client.documents import Dataset

app = typer.Typer(no_args_is_help=True, help="Manage image datasets.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DatasetId = Annotated[
    str, typer.Argument(metavar="DATASET", help="Dataset: its id (ds_…), unique name or unique id prefix.")
]


@app.command("add")
def add(
    source: Annotated[
        str,
        typer.Argument(help="A zip, tar or Parquet file, a folder, an https URL, or builtin:digits, builtin:mnist-5k."),
    ],
    name: Annotated[str | None, typer.Option(help="Name of the dataset. Default: the source's name.")] = None,
    *,
    labels: Annotated[Literal["auto", "none"], typer.Option(help="none: ignore folders and label columns.")] = "auto",
    splits: Annotated[
        str, typer.Option(help="Folders of the splits: train=seg_train,test=seg_test; none: no folder is a split.")
    ] = "auto",
    class_from: Annotated[
        Literal["auto", "first", "parent"],
        typer.Option(help="Folder that names the class: the first below the split, or the parent of the image."),
    ] = "auto",
    wait: Annotated[bool, typer.Option(help="Wait until it is ready.")] = True,
    as_json: AsJson = False,
) -> None:
    """Add a dataset and wait until it is ready."""
    with connect() as potstill:
        kind, _, builtin = source.partition(":")
        if kind == "builtin":
            dataset = potstill.datasets.create({"type": "builtin", "name": builtin}, name=name)
        elif "://" in source:
            dataset = potstill.datasets.add(url=source, name=name, labels=labels, splits=splits, class_from=class_from)
        else:
            dataset = potstill.datasets.upload(
                Path(source), name=name, labels=labels, splits=splits, class_from=class_from
            )
        if wait:
            with err.status("Reading images") as status:
                dataset = potstill.datasets.wait(
                    dataset["id"], on_progress=lambda read: status.update(format_ingest_progress(read))
                )
    if as_json:
        print_json(dataset)
    else:
        _describe(dataset)


@app.command("list")
def list_datasets(
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of datasets.")] = 20, *, as_json: AsJson = False
) -> None:
    """List the newest datasets."""
    with connect() as potstill:
        datasets = list(islice(potstill.datasets.list(), limit))
    if as_json:
        print_json(datasets)
    elif datasets:
        out.print(dataset_table(datasets))
    else:
        out.print("No datasets yet. Add one: [bold]potstill datasets add builtin:digits[/]")


@app.command("show")
def show(dataset_id: DatasetId, *, as_json: AsJson = False) -> None:
    """Show one dataset with its rejected files."""
    with connect() as potstill:
        dataset = potstill.datasets.get(dataset_id)
    if as_json:
        print_json(dataset)
    else:
        _describe(dataset)


@app.command("delete")
def delete(dataset_id: DatasetId) -> None:
    """Delete a dataset that no job uses."""
    with connect() as potstill:
        potstill.datasets.delete(dataset_id)
    out.print(f"Deleted {dataset_id}")


def _describe(dataset: Dataset) -> None:
    splits = dataset["splits"] or {}
    parts = [f"{format_count(split['num_samples'])} {name}" for name, split in splits.items()]
    if dataset["num_classes"]:
        parts.append(f"{dataset['num_classes']} classes")
    if (value_range := dataset.get("value_range")) is not None:
        parts.append(f"{value_range['bits']} bits")
    out.print(f"[bold]{dataset['id']}[/]  {escape_text(dataset['name'])}  {dataset['status']}  {', '.join(parts)}")
    if dataset["error"]:
        out.print(f"  [red]{escape_text(dataset['error']['message'])}[/]")
    print_warnings(dataset)
    for rejected in dataset["rejected"][:20]:
        out.print(f"  [yellow]rejected[/] {escape_text(rejected['path'])}: {escape_text(rejected['reason'])}")
    if len(dataset["rejected"]) > 20:
        out.print(f"  [dim]and {len(dataset['rejected']) - 20} more; see --json[/]")

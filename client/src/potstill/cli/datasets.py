"""``potstill datasets``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from potstill._sync.datasets import Dataset
from potstill.cli.console import out, print_json, print_removed, print_warnings
from potstill.cli.options import AsJson, DatasetId, Limit, connect
from potstill.cli.tables import Column, print_table, status_text
from potstill.cli.uploads import find_upload_id
from potstill.dataset_layout import layout_fields
from potstill.dataset_source import SOURCES, parse_source
from potstill.formats import escape_text, format_age, format_count

app = typer.Typer(no_args_is_help=True, help="Manage image datasets.")

DATASET_COLUMNS = (
    Column("dataset"),
    Column("name", wraps=True),
    Column("status"),
    Column("classes", justify="right", optional=1),
    Column("train", justify="right"),
    Column("test", justify="right"),
    Column("created", optional=2),
)
_SHOWN_REJECTED = 20


@app.command("add")
def add(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help=f"A zip, tar or Parquet file, or a folder, of this machine; {SOURCES}.",
        ),
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
    split: Annotated[str | None, typer.Option(help="Only this split of a dataset of the hub. Default: all.")] = None,
    config: Annotated[
        str | None, typer.Option(help="Config of a dataset of the hub. Default: the only one, or `default`.")
    ] = None,
    license_: Annotated[
        str | None, typer.Option("--license", help="License of the images, such as cc-by-4.0, for reports.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait until it is ready.")] = True,
    as_json: AsJson = False,
) -> None:
    """Add a dataset and wait until it is ready."""
    layout = layout_fields(labels, splits, class_from)
    found = parse_source(source, config=config, split=split)
    with connect() as client:
        if found is None:
            dataset = client.datasets.upload(
                Path(source),
                name=name,
                labels=labels,
                splits=splits,
                class_from=class_from,
                license=license_,
                progress=True,
            )
        else:
            if found["type"] == "upload":
                found["upload"] = find_upload_id(client, found["upload"])
            dataset = client.datasets.create({**found, **layout}, name=name, license=license_)
        if wait:
            dataset = dataset.wait(progress=True)
    if as_json:
        print_json(dataset)
    else:
        _describe(dataset)


@app.command("list")
def list_datasets(
    *,
    search: Annotated[str | None, typer.Option(help="Words of the name or id.")] = None,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """List datasets, newest first."""
    with connect() as client:
        datasets = list(client.datasets.list(search=search, limit=limit))
    if as_json:
        print_json(datasets)
    elif datasets:
        print_datasets(datasets)
    elif search:
        out.print("No dataset matches.")
    else:
        out.print("No datasets yet. Add one: [bold]potstill datasets add builtin:digits[/]")


@app.command("show")
def show(dataset_id: DatasetId, *, as_json: AsJson = False) -> None:
    """Show one dataset with its rejected files."""
    with connect() as client:
        dataset = client.datasets.get(dataset_id)
    if as_json:
        print_json(dataset)
    else:
        _describe(dataset)


@app.command("delete")
def delete(dataset_id: DatasetId, *, as_json: AsJson = False) -> None:
    """Delete a dataset that no job uses."""
    with connect() as client:
        client.datasets.delete(dataset_id)
    print_removed(dataset_id, f"Deleted {dataset_id}", as_json=as_json)


@app.command("image")
def image(
    dataset_id: DatasetId,
    split: Annotated[Literal["train", "test"], typer.Argument(metavar="SPLIT", help="Split of the image.")],
    index: Annotated[
        int, typer.Argument(metavar="INDEX", min=0, help="Position in the split, whose images are ordered by path.")
    ],
    file: Annotated[Path | None, typer.Option("--out", "-o", help="File to write. Default: standard output.")] = None,
) -> None:
    """Write one image, as it was uploaded."""
    with connect() as client:
        content = client.datasets.image(dataset_id, split, index)
    if file is None:
        sys.stdout.buffer.write(content)
    else:
        file.write_bytes(content)


def print_datasets(datasets: list[Dataset]) -> None:
    """Print a table of datasets."""
    rows = []
    for dataset in datasets:
        counts = {name: split.num_samples for name, split in (dataset.splits or {}).items()}
        rows.append(
            (
                dataset.id,
                dataset.name or "—",
                status_text(dataset.status),
                format_count(dataset.num_classes),
                format_count(counts.get("train")),
                format_count(counts.get("test")),
                format_age(dataset.created_at),
            )
        )
    print_table(DATASET_COLUMNS, rows)


def _describe(dataset: Dataset) -> None:
    splits = dataset.splits or {}
    parts = [f"{format_count(split.num_samples)} {name}" for name, split in splits.items()]
    if dataset.num_classes:
        parts.append(f"{dataset.num_classes} classes")
    if dataset.value_range is not None:
        parts.append(f"{dataset.value_range.bits} bits")
    out.print(f"[bold]{dataset.id}[/]  {escape_text(dataset.name)}  {dataset.status}  {', '.join(parts)}")
    if dataset.error:
        out.print(f"  [red]{escape_text(dataset.error.message)}[/]")
    print_warnings(dataset.warnings)
    for rejected in dataset.rejected[:_SHOWN_REJECTED]:
        out.print(f"  [yellow]rejected[/] {escape_text(rejected.path)}: {escape_text(rejected.reason)}")
    if len(dataset.rejected) > _SHOWN_REJECTED:
        out.print(f"  [dim]and {len(dataset.rejected) - _SHOWN_REJECTED} more; see --json[/]")

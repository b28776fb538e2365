"""``potstill methods``, ``potstill architectures`` and ``potstill estimate``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated

import typer

from potstill.cli.console import out, print_json, print_warnings
from potstill.cli.options import AsJson, Settings, SpecFile, connect
from potstill.cli.spec_files import read_spec
from potstill.cli.tables import Column, print_table
from potstill.documents import Estimate, Method, Needs, Recommendation
from potstill.formats import escape_text, format_bytes, format_count, format_duration, format_quantity, format_teacher

methods = typer.Typer(no_args_is_help=True, help="Methods of distillation.")


def register(app: typer.Typer) -> None:
    """Add the commands to the top level."""
    app.add_typer(methods, name="methods")
    app.command("architectures")(list_architectures)
    app.command("estimate")(estimate)


@methods.command("list")
def list_methods(
    search: Annotated[
        str, typer.Argument(metavar="TEXT", help="Only methods whose name or description contains this.")
    ] = "",
    *,
    as_json: AsJson = False,
) -> None:
    """List the methods."""
    with connect() as client:
        found = [each for each in client.methods.list() if search.lower() in f"{each.name} {each.summary}".lower()]
    if as_json:
        print_json(found)
        return
    columns = (Column("method"), Column("year"), Column("cost", justify="right"), Column("summary", wraps=True))
    rows = [(each.name, str(each.year), _format_cost(each), each.summary) for each in found]
    print_table(columns, rows)


@methods.command("show")
def show_method(
    name: Annotated[str, typer.Argument(metavar="METHOD", help="Name of the method.")], *, as_json: AsJson = False
) -> None:
    """Show one method: when to choose it, its needs, parameters and an example."""
    with connect() as client:
        method = client.methods.get(name)
    if as_json:
        print_json(method)
        return
    out.print(f"[bold]{method.name}[/]  {escape_text(method.summary)}")
    out.print(f"  {escape_text(method.when)}")
    out.print(f"  {escape_text(method.paper)} ({method.year})")
    out.print(f"  needs: {escape_text(_format_needs(method.needs))}")
    out.print(f"  cached: {', '.join(method.caches) or 'nothing'}; cost of a step: {_format_cost(method)}")
    rows = [
        (field, json.dumps(schema.get("default")), schema.get("description", ""))
        for field, schema in method.parameters.get("properties", {}).items()
        if field != "name"
    ]
    if rows:
        print_table((Column("parameter"), Column("default"), Column("description", wraps=True)), rows)
    out.print("  example, with your own dataset:")
    print(json.dumps(method.example, indent=2, ensure_ascii=False))


@methods.command("recommend")
def recommend_methods(
    teacher: Annotated[str, typer.Argument(metavar="TEACHER", help="Family: cnn, transformer, hybrid, mlp or none.")],
    student: Annotated[str, typer.Argument(metavar="STUDENT", help="Family: cnn, transformer, hybrid or mlp.")],
    num_images: Annotated[int, typer.Argument(metavar="NUM_IMAGES", min=1, help="Number of training images.")],
    *,
    labels: Annotated[bool, typer.Option(help="The images have labels.")] = True,
    compute: Annotated[str, typer.Option(help="Budget for a step: small, medium or large.")] = "medium",
    as_json: AsJson = False,
) -> None:
    """Recommend methods for a pair of networks, best first, with the expected gain."""
    with connect() as client:
        found = client.methods.recommend(
            teacher=teacher, student=student, num_images=num_images, labels=labels, compute=compute
        )
    if as_json:
        print_json(found)
        return
    columns = (Column("method"), Column("gain"), Column("reason", wraps=True))
    print_table(columns, [(str(each.method["name"]), _format_gain(each), each.reason) for each in found.data])
    for sentence in found.advice:
        out.print(f"  {escape_text(sentence)}")


def list_architectures(
    search: Annotated[str, typer.Argument(metavar="TEXT", help="Text to look for, e.g. vit_tiny.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=100, help="Maximum number of lines.")] = 20,
    *,
    as_json: AsJson = False,
) -> None:
    """List timm architectures, best match first."""
    with connect() as client:
        found = client.architectures.list(search, limit=limit)
    if as_json:
        print_json(list(found))
        return
    columns = (
        Column("architecture"),
        Column("family"),
        Column("parameters", justify="right"),
        Column("FLOPs", justify="right", optional=1),
        Column("input", optional=2),
        Column("pretrained", optional=3),
    )
    rows = [
        (
            each.name,
            each.family,
            format_quantity(each.parameters),
            format_quantity(each.flops),
            " × ".join(map(str, each.input_size)),
            "yes" if each.pretrained else "no",
        )
        for each in found
    ]
    print_table(columns, rows)


def estimate(spec: SpecFile, set_: Settings = None, *, as_json: AsJson = False) -> None:
    """Estimate duration, memory and model sizes of a job without submitting it."""
    document = read_spec(spec, set_ or ())
    with connect() as client:
        found = client.jobs.estimate(document)
    if as_json:
        print_json(found)
    else:
        _describe_estimate(found)


def _describe_estimate(found: Estimate) -> None:
    count = len(found.teachers)
    rows = [("student", found.student), *((format_teacher(i, count), each) for i, each in enumerate(found.teachers))]
    print_table(
        (Column("model"), *(Column(each, justify="right") for each in ("parameters", "FLOPs", "size"))),
        [
            (name, format_quantity(each.parameters), format_quantity(each.flops), format_bytes(each.size_bytes))
            for name, each in rows
        ],
    )
    cache = found.teacher_cache
    state = "filled by an earlier job" if cache.hit else f"filled in {format_duration(cache.seconds)}"
    out.print(f"  steps          {format_count(found.total_steps)}")
    out.print(f"  duration       {format_duration(found.seconds)}")
    out.print(f"  memory         {format_bytes(found.memory_bytes)}")
    if cache.bytes:
        out.print(f"  teacher cache  {format_bytes(cache.bytes)}, {state}")
    reused = dict(_reused(found))
    if reused:
        saved = format_duration(sum(reused.values()))
        out.print(f"  reused         {', '.join(reused)} of earlier jobs; saves {saved}")
    print_warnings(found.warnings)


def _reused(found: Estimate) -> Iterator[tuple[str, float]]:
    """Yield name and saved seconds of each model that an earlier job has trained."""
    for training in found.teacher_trainings:
        if training.reused:
            yield format_teacher(training.teacher, len(found.teachers)), training.saved_seconds
    for distillation in found.distillations:
        if distillation.reused:
            yield f"distillation of {distillation.model}", distillation.saved_seconds
    if found.baseline is not None and found.baseline.reused:
        yield "baseline", found.baseline.saved_seconds


def _format_cost(method: Method) -> str:
    return "—" if method.cost is None else f"{method.cost:.1f} ×"


def _format_gain(found: Recommendation) -> str:
    gain = found.expected_gain
    return "—" if gain is None else f"{gain.points:+.1f} over {gain.over}, {gain.kind}"


def _format_needs(needs: Needs) -> str:
    most = needs.max_teachers
    if most == needs.min_teachers:
        teachers = f"{most} teacher{'' if most == 1 else 's'}"
    else:
        teachers = f"{needs.min_teachers} to {most or 'any number of'} teachers"
    parts = [teachers, "labels" if needs.labels else "no labels"]
    parts += [f"of each teacher {', '.join(needs.teacher)}"] if needs.teacher else []
    parts += [f"of the student {', '.join(needs.student)}"] if needs.student else []
    return "; ".join(parts)

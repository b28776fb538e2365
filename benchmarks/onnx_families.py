"""Which timm families have an ONNX export, with which of torch's exporters, and at what cost.

One member of each family, with random weights, is exported with each exporter and compared with torch. The first pass
takes one member of each of timm's modules, the second one of each name prefix in them. Every export runs in a new
process. Each result is saved at once: a stopped survey goes on where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import timm
import torch

from benchmarks.results import RESULTS, machine, table, write_json
from core.errors import ExportFailed, ExportMismatch
from core.export.onnx_file import export_with
from core.export.onnx_graph import CONVERTERS
from core.export.parity import student_logits
from core.models import catalog
from core.models.built import BuiltModel
from core.models.meta_device import build_on_meta, parameters_on_meta
from core.models.preprocessing import plain_preprocessing
from core.models.weights import BUILD_ERRORS

RESULT = RESULTS / "onnx_families.json"
PACKAGES = ("torch", "timm", "onnx", "onnxruntime")
_SMALL_SIZES = (64, 128)  # pixels a side, for networks that take any size
_MAX_CANDIDATES = 3  # members of a family whose parameters are counted
_MAX_PARAMETERS = 120_000_000
_LARGE = re.compile(r"large|huge|giant|gigantic|so400m|so150m|_x*l\d*(_|$)|_[hg]\d*(_|$)|_b[4-9]|_\d{3,}[a-z]*m?$")
_NUM_IMAGES = 5
_ARGUMENTS = {"num_classes": 10, "in_chans": 3}


def main(arguments: Sequence[str]) -> int:
    """Survey until all families are done or the time is over, save, and print."""
    options = _parser().parse_args(arguments)
    result = _load(options.out)
    end = time.monotonic() + 60 * options.minutes
    for exporter, names in _plan(result["models"], options.exporters):
        for name in names:
            if time.monotonic() > end:
                break
            row = result["models"].setdefault(name, _describe(name))
            if row["size"] is None or exporter in row["exporters"]:
                continue
            row["exporters"][exporter] = _in_new_process(name, row["size"], exporter, options.seconds)
            print(f"{name:<40} {exporter:<13} {row['exporters'][exporter]}", flush=True)
            write_json(options.out, result)
    _print(result["models"])
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks onnx_families")
    parser.add_argument("--minutes", type=float, default=60, help="start no further export after this time")
    parser.add_argument("--seconds", type=float, default=300, help="limit of one export, in seconds of the processor")
    parser.add_argument("--exporters", nargs="*", default=list(CONVERTERS), choices=list(CONVERTERS))
    parser.add_argument("--out", type=Path, default=RESULT)
    return parser


def _load(path: Path) -> dict[str, Any]:
    """Return an earlier result of the same versions, or an empty one."""
    empty = {"machine": machine(), "versions": {name: version(name) for name in PACKAGES}, "models": {}}
    if not path.is_file():
        return empty
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result if result["versions"] == empty["versions"] else empty


def _plan(models: dict[str, Any], exporters: Sequence[str]) -> Iterator[tuple[str, Iterable[str]]]:
    """Yield exporters with architectures: the first exporter for all, the others first where the first failed."""
    first, *others = exporters
    for representatives in (of_modules, of_prefixes):
        names = []
        for name in representatives():
            names.append(name)
            yield first, [name]
        for other in others:
            yield other, [name for name in names if not _succeeded(models.get(name), first)]
    for other in others:
        yield other, of_modules()


def _succeeded(row: dict[str, Any] | None, exporter: str) -> bool:
    return bool(row and row["exporters"].get(exporter, {}).get("outcome") == "exported")


@cache
def _names_by_module() -> dict[str, list[str]]:
    modules = {module: timm.list_models(module=module) for module in timm.list_modules()}
    return {module: [n for n in names if not n.startswith("test_")] for module, names in modules.items()}


def of_modules() -> Iterator[str]:
    """Yield a small member of each of timm's modules."""
    for names in _names_by_module().values():
        chosen = _smallest(tuple(names))
        if chosen:
            yield chosen


def of_prefixes() -> Iterator[str]:
    """Yield a small member of each name prefix that :func:`of_modules` leaves out."""
    for names in _names_by_module().values():
        chosen = _smallest(tuple(names))
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(_prefix(name), []).append(name)
        for prefix, group in groups.items():
            other = None if chosen and prefix == _prefix(chosen) else _smallest(tuple(group))
            if other:
                yield other


def _prefix(name: str) -> str:
    """Return the first word of a name without its version number: ``maxvit`` of ``maxvit_rmlp_pico_rw_256``."""
    words = [word for word in name.split("_") if word not in {"tf", "legacy"}]
    return re.sub(r"\d+[a-z]*$", "", words[0]) + ("_rmlp" if "rmlp" in words else "")


@cache
def _smallest(names: tuple[str, ...]) -> str | None:
    small = [name for name in names if not _LARGE.search(name)] or list(names)
    counts = {name: parameters_on_meta(name) for name in small[:_MAX_CANDIDATES]}
    known = {name: count for name, count in counts.items() if count and count <= _MAX_PARAMETERS}
    return min(known, key=lambda name: (known[name], name), default=None)


def _describe(name: str) -> dict[str, Any]:
    """Return a model's row without exports; ``size`` is None where it has no forward pass on the meta device."""
    row = {"family": catalog.family(name), "parameters": parameters_on_meta(name), "size": None, "exporters": {}}
    sizes = () if catalog.takes_image_size(name) else _SMALL_SIZES
    for size in (*sizes, catalog.native_image_size(name)):
        try:
            with torch.no_grad():
                logits = build_on_meta(name, _ARGUMENTS)(torch.empty(2, 3, size, size, device="meta"))
        except BUILD_ERRORS:
            continue
        if isinstance(logits, torch.Tensor) and logits.shape == (2, 10):
            return row | {"size": size}
    return row


def _in_new_process(name: str, size: int, exporter: str, seconds: float) -> dict[str, Any]:
    """Export in a process that ends after ``seconds`` of processor time."""
    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_export, args=(name, size, exporter, seconds, sender))
    process.start()
    sender.close()
    with contextlib.suppress(EOFError):
        row: dict[str, Any] = receiver.recv()
        process.join()
        return row
    process.join()
    return {"outcome": "ended", "reason": f"exit code {process.exitcode}"}


def _export(name: str, size: int, exporter: str, seconds: float, sender: Connection) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 5))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True, warn_only=True)
    built = BuiltModel(
        timm.create_model(name, **_ARGUMENTS), name, _ARGUMENTS, plain_preprocessing(image_size=size, channels=3)
    )
    images = torch.randint(0, 256, (_NUM_IMAGES, 3, size, size), dtype=torch.uint8)
    with tempfile.TemporaryDirectory(prefix="potstill-onnx-") as folder:
        path = Path(folder) / "model.onnx"
        expected = student_logits(built, images)
        start = time.process_time()
        try:
            difference = export_with(CONVERTERS[exporter], built, path, images=images, expected=expected)
            row: dict[str, Any] = {"outcome": "exported", "difference": difference.max, "bytes": path.stat().st_size}
        except ExportFailed as error:
            outcome = "mismatch" if isinstance(error, ExportMismatch) else "failed"
            row = {"outcome": outcome, "reason": error.detail}
    sender.send(row | {"cpu_seconds": round(time.process_time() - start, 2)})


def _print(models: dict[str, Any]) -> None:
    rows = []
    for exporter in CONVERTERS:
        outcomes = [row["exporters"][exporter] for row in models.values() if exporter in row["exporters"]]
        counts = {
            kind: sum(o["outcome"] == kind for o in outcomes) for kind in ("exported", "mismatch", "failed", "ended")
        }
        seconds = sorted(o["cpu_seconds"] for o in outcomes if o["outcome"] == "exported")
        median = seconds[len(seconds) // 2] if seconds else None
        rows.append([exporter, *map(str, (len(outcomes), *counts.values(), "" if median is None else median))])
    print(table(["exporter", "tried", "exported", "mismatch", "failed", "ended", "median CPU s"], rows))
    both = [row["exporters"].values() for row in models.values() if row["exporters"]]
    print(f"{sum(any(o['outcome'] == 'exported' for o in row) for row in both)} of {len(both)} have an ONNX file")


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))

"""Ingestion of an archive against a bare decode of its images by Pillow on one core.

A bare decode is ``Image.open(...).convert().load()`` for each file, already in memory, in one process. Ingestion is
that of the service, in sandboxed processes: it reads the archive, checks every file, hashes files and pixels, and
writes the stored dataset. Both process the same images in alternation. Photographs are crops of scikit-learn's two
photographs. Where other work runs on the machine, the ratio of processor times is closer to an idle machine than that
of images per second. The start of the processes, measured with an archive of ten images, is left out of both.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import resource
import shutil
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarks.cifar10 import ARCHIVE
from benchmarks.figures import Figure, figure, ratio, save_figures
from core.ingest.limits import IngestLimits
from core.reporting import Control
from worker.ingest.sandboxed import ProcessLimits, run_sandboxed

NUM_PHOTOGRAPHS = 1_000
NUM_SMALL = 60_000
_GOAL_EFFICIENCY = 0.8  # of the cores
_GOAL_SMALL_SECONDS = 12.0


@dataclass(slots=True)
class Measured:
    """Wall and processor seconds of each repeat."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)


def main(arguments: Sequence[str]) -> int:
    """Measure, print and write."""
    options = _parser().parse_args(arguments)
    scale = 0.02 if options.quick else options.scale
    figures: list[Figure] = []
    raw = {}
    with tempfile.TemporaryDirectory(prefix="potstill-benchmark-") as name:
        work = Path(name)
        sources = {
            "photographs": _photographs(work, round(NUM_PHOTOGRAPHS * scale)),
            "small images": _small(work, scale),
        }
        for kind, archive in sources.items():
            bare, ingested, count = _measure(archive, work, options.repeats)
            load = os.getloadavg()[0]
            figures += _figures(kind, count, bare, ingested, load)
            raw[kind] = {"bare": bare.seconds, **{str(n): m.seconds for n, m in ingested.items()}, "load": load}
    figures.append(
        figure("memory of the largest process of an ingestion", [_peak_megabytes()], "MB", detail="all runs")
    )
    if not options.quick or options.out:
        save_figures("ingest", (__doc__ or "").strip(), figures, path=options.out, seconds=raw)
    return 0


def _measure(archive: Path, work: Path, repeats: int) -> tuple[Measured, dict[int, Measured], int]:
    with zipfile.ZipFile(archive) as packed:
        contents = [packed.read(entry) for entry in packed.infolist() if not entry.is_dir()]
    few = _photographs(work, 10, "few")
    bare, ingested = Measured(), {1: Measured(), 2: Measured()}
    for repeat in range(repeats):
        _time_bare(contents, bare)
        for processes in sorted(ingested, reverse=repeat % 2 == 1):
            start = Measured()
            _time_ingestion(few, work, processes, start)
            measured = ingested[processes]
            _time_ingestion(archive, work, processes, measured)
            measured.seconds[-1] -= start.seconds[-1]
            measured.cpu_seconds[-1] -= start.cpu_seconds[-1]
        print(f"{archive.name}, repeat {repeat + 1}:", round(bare.seconds[-1], 2), end=" s bare, ")
        print({n: round(each.seconds[-1], 2) for n, each in ingested.items()}, flush=True)
    return bare, ingested, len(contents)


def _time_bare(contents: Sequence[bytes], measured: Measured) -> None:
    started, cpu = time.monotonic(), time.process_time()
    for content in contents:
        with Image.open(io.BytesIO(content)) as image:
            image.convert().load()
    measured.seconds.append(time.monotonic() - started)
    measured.cpu_seconds.append(time.process_time() - cpu)


def _time_ingestion(archive: Path, work: Path, processes: int, measured: Measured) -> None:
    scratch = work / "scratch"
    scratch.mkdir()
    limits = IngestLimits()
    request = {
        "file": str(archive),
        "out_folder": str(scratch / "stored"),
        "name": "benchmark",
        "limits": {name: getattr(limits, name) for name in limits.__slots__},
        "processes": processes,
    }
    process_limits = ProcessLimits(memory_bytes=4 * 1024**3, file_bytes=limits.max_unpacked_bytes, seconds=3600.0)
    before, started = _children(), time.monotonic()
    run_sandboxed("core.ingest.sandboxed_main", request, process_limits, scratch=scratch, control=lambda: Control.GO)
    measured.seconds.append(time.monotonic() - started)
    measured.cpu_seconds.append(_children() - before)
    shutil.rmtree(scratch)


def _children() -> float:
    """Processor seconds of all processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _peak_megabytes() -> float:
    """Peak resident memory of the largest process that has ended."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000


def _figures(kind: str, count: int, bare: Measured, ingested: dict[int, Measured], load: float) -> list[Figure]:
    detail = f"{count:,} images, load of the machine {load:.1f} on {os.cpu_count()} cores"
    is_large = kind == "photographs"
    found = [figure(f"bare decode of {kind}", [count / s for s in bare.seconds], "images/s", detail=detail)]
    for processes, measured in ingested.items():
        name = f"ingestion of {kind}, {processes} process{'es' if processes > 1 else ''}"
        goal = f"≥ {_GOAL_EFFICIENCY * processes:g}" if is_large and processes == 2 else None
        found.append(figure(name, [count / seconds for seconds in measured.seconds], "images/s", detail=detail))
        found.append(ratio(f"{name}, against a bare decode", bare.seconds, measured.seconds, goal=goal, detail=detail))
        found.append(
            ratio(
                f"{name}, processor time of a bare decode against that of the ingestion",
                bare.cpu_seconds,
                measured.cpu_seconds,
                goal=f"≥ {_GOAL_EFFICIENCY:g}" if is_large and processes == 2 else None,
                detail=detail,
            )
        )
    both = ingested[2]
    if not is_large:
        goal = f"≤ {_GOAL_SMALL_SECONDS:g}" if count == NUM_SMALL else None
        found.append(figure(f"ingestion of {count:,} {kind}, 2 processes", both.seconds, "s", goal=goal, detail=detail))
    return found


def _photographs(work: Path, count: int, name: str = "photographs") -> Path:
    """Make a zip of JPEG photographs of many sizes, 68 kB on average."""
    generator = random.Random(0)
    originals = [Image.fromarray(image) for image in load_sample_images().images]
    archive = work / f"{name}.zip"
    with zipfile.ZipFile(archive, "w") as target:
        for index in range(count):
            label = index % len(originals)
            image = originals[label]
            width = round(image.width * generator.uniform(0.75, 1.0))
            height = round(image.height * generator.uniform(0.75, 1.0))
            left, top = generator.randint(0, image.width - width), generator.randint(0, image.height - height)
            scale = generator.uniform(0.9, 1.2)
            size = (round(width * scale), round(height * scale))
            file = io.BytesIO()
            image.resize(size, box=(left, top, left + width, top + height)).save(file, "JPEG", quality=92)
            split = "test" if index % 10 < 2 else "train"
            target.writestr(f"{split}/{label}/{index:05d}.jpg", file.getvalue())
    return archive


def _small(work: Path, scale: float) -> Path:
    """Return CIFAR-10 where its archive exists, else made of crops of 32 pixels; a part of it for a scale below 1."""
    archive = work / "small.zip"
    if ARCHIVE.is_file():
        with zipfile.ZipFile(ARCHIVE) as source, zipfile.ZipFile(archive, "w") as target:
            entries = [entry for entry in source.infolist() if not entry.is_dir()]
            step = max(1, round(1 / scale))
            for entry in entries[::step]:
                target.writestr(entry.filename, source.read(entry))
        return archive
    photograph = Image.fromarray(load_sample_images().images[0])
    generator = random.Random(0)
    with zipfile.ZipFile(archive, "w") as target:
        for index in range(round(NUM_SMALL * scale)):
            left, top = generator.randint(0, photograph.width - 32), generator.randint(0, photograph.height - 32)
            file = io.BytesIO()
            photograph.crop((left, top, left + 32, top + 32)).save(file, "JPEG")
            target.writestr(f"{'test' if index % 6 == 0 else 'train'}/{index % 10}/{index}.jpg", file.getvalue())
    return archive


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks ingest", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the images")
    parser.add_argument("--quick", action="store_true", help="few images, a smoke test; nothing is written")
    parser.add_argument("--out", type=Path, help="write the result here")
    return parser

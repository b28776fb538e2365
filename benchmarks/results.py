"""Files of benchmark results, and the description of the machine."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from core.system.disk import write_atomic
from worker.device import cpu_name, cuda_name

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DOCS = ROOT / "docs"


def machine() -> dict[str, Any]:
    """Return the machine and the versions that times depend on."""
    import timm  # slow to import, not needed to read results
    import torch

    return {
        "processor": cpu_name(),
        "cpus": os.cpu_count(),
        "cuda": cuda_name(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "timm": timm.__version__,
    }


def write_json(path: Path, document: Any) -> None:
    """Write a result atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    write_atomic(path, text.encode(), durable=False)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> str:
    """Return a Markdown table; columns named in ``right`` are right-aligned."""
    rule = ["---:" if heading in right else "---" for heading in headings]
    lines = [headings, rule, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)

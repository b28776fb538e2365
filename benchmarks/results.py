"""Where measurements are kept, and on what they were taken."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from worker.device import cpu_name, cuda_name

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DOCS = ROOT / "docs"


def machine() -> dict[str, Any]:
    """The machine and the versions that a time depends on."""
    import timm  # slow to import, and not needed to read results
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
    """Write a result, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    beside.replace(path)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> str:
    """A Markdown table; columns named in ``right`` are aligned to the right."""
    rule = ["---:" if heading in right else "---" for heading in headings]
    lines = [headings, rule, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)

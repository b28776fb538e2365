"""The student's weights as a safetensors file. They are written before evaluation, which measures this very file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from core.export.formats import ExportContext
from core.export.parity import TOLERANCES, Runner, compare, file_input, parity_images, student_logits
from core.models.built import BuiltModel


def export(student: BuiltModel, context: ExportContext) -> dict[str, Any]:
    """Compare the student with the network that timm builds from its folder."""
    assert context.path.is_file(), f"{context.path} is missing: save_folder writes it before the export"
    images, tolerance = parity_images(context.samples), TOLERANCES["fp32"]
    difference = compare(
        open_runner(context.path),
        file_input(student, images, preprocessing=False),
        student_logits(student, images),
        tolerance,
        runtime="timm",
    )
    return {"runtime": "timm", "logits": difference.to_json(tolerance)}


def open_runner(path: Path) -> Runner:
    """Load a folder with timm, as a user does. Does not change torch's random state."""
    with torch.random.fork_rng(devices=[]):
        module = timm.create_model(f"local-dir:{path.parent}", pretrained=True).eval()

    def run(images_BCHW: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = module(images_BCHW)
        return logits

    return run

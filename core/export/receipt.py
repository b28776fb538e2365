"""Receipt of an exported file: what was measured of it, under the runtime that opens it.

Shapes: N images, B batch, C channels, S the student's image size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.data.pixels import Images
from core.evaluate import Latency, agreement, measure_latency
from core.export.parity import Runner, file_input
from core.models.built import BuiltModel
from core.system.digest import file_digest

EVALUATION_FLOPS = 2e12
"""Work of the evaluation of one file: about half a minute on two cores, 20,000 images of a ViT of 0.7 M parameters."""
MIN_EVALUATION_IMAGES = 500
_BATCH_SIZE = 32
_LATENCY_SECONDS = 0.3  # of each batch size


@dataclass(frozen=True, slots=True, kw_only=True)
class TestSplit:
    """Images to evaluate a file on.

    Args:
        images: Evenly spaced images of the test split (N, C, S, S), uint8; all of them if that is affordable.
        labels: Their classes (N,), None if unknown.
        predictions: The classes that the evaluated student predicts for them (N,); None for a student without classes.
        num_test: Size of the complete split.
    """

    __test__ = False  # not a test class

    images: Images
    labels: Tensor | None
    predictions: Tensor | None
    num_test: int

    @classmethod
    def select(cls, images: Images, *, labels: Tensor | None, predictions: Tensor | None, flops: int) -> TestSplit:
        """Select as many images as :data:`EVALUATION_FLOPS` allow, at least 500; ``flops`` are those of one image."""
        count = max(MIN_EVALUATION_IMAGES, int(EVALUATION_FLOPS / max(flops, 1)))
        stride = math.ceil(len(images) / count)
        return cls(
            images=images[::stride],
            labels=None if labels is None else labels[::stride],
            predictions=None if predictions is None else predictions[::stride],
            num_test=len(images),
        )

    def scores(self, predicted_N: Tensor | None) -> dict[str, Any]:
        """Return accuracy of a file and of the student on these images, and their agreement; None where undefined."""
        scores: dict[str, Any] = {"top1": None, "top1_student": None, "agreement": None}
        if predicted_N is not None and self.labels is not None:
            scores["top1"] = agreement(predicted_N, self.labels)
        if self.predictions is not None and self.labels is not None:
            scores["top1_student"] = agreement(self.predictions, self.labels)
        if predicted_N is not None and self.predictions is not None:
            scores["agreement"] = agreement(predicted_N, self.predictions)
        return {**scores, "evaluated_images": len(self.images), "test_images": self.num_test}


def build_receipt(
    paths: Sequence[Path],
    *,
    details: Mapping[str, Any],
    scores: Mapping[str, Any],
    latency: Sequence[Latency],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """Build a receipt as JSON.

    Args:
        paths: The files; the first one is opened by the runtime.
        details: What the export returned: options, exporter, difference of the logits.
        scores: See :meth:`TestSplit.scores`.
        latency: Of batches of preprocessed images.
        versions: Of the packages that wrote or read the files.
    """
    files = [{"name": p.name, "size_bytes": p.stat().st_size, "sha256": file_digest(p)} for p in paths]
    return {
        **details,
        **scores,
        "latency_ms": {str(each.batch_size): round(each.milliseconds, 4) for each in latency},
        "threads": latency[0].threads,
        "size_bytes": sum(file["size_bytes"] for file in files),
        "sha256": files[0]["sha256"],
        "files": files,
        "versions": dict(versions),
    }


def predicted_classes(
    run: Runner, student: BuiltModel, images_NCHW: Images, *, preprocessing: bool, poll: Callable[[], None]
) -> Tensor:
    """Run a file over images; return its most probable classes (N,). ``poll`` is called before each batch."""
    classes = []
    for start in range(0, len(images_NCHW), _BATCH_SIZE):
        poll()
        batch_BCHW = torch.from_numpy(np.array(images_NCHW[start : start + _BATCH_SIZE]))
        classes.append(run(file_input(student, batch_BCHW, preprocessing=preprocessing)).argmax(dim=1))
    return torch.cat(classes)


def file_latency(run: Runner, input_1CHW: Tensor, *, poll: Callable[[], None]) -> tuple[Latency, ...]:
    """Time a file on copies of its input for one image, in batches of 1 and 32."""
    return measure_latency(run, input_1CHW[0], seconds=_LATENCY_SECONDS, poll=poll)

"""Runs of the compression benchmark: one job each, on the trained student of its seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.cifar10 import FINAL, SplitSizes
from core.spec import parse_job_spec

IMAGE_SIZE = 32
TEACHER = "mdl_dla34"

FLOAT = "float32"
INT8, PRUNED, PRUNED_BY_LABELS = "int8 static", "50 % FLOPs", "50 % FLOPs, fine-tuned on labels alone"
PEER_STATIC, PEER_DYNAMIC = "ONNX Runtime static", "ONNX Runtime dynamic"
PEER_PRUNED = "50 % FLOPs by Torch-Pruning, fine-tuned on labels alone"
PRUNED_FLOPS = 0.5

STUDENTS: dict[str, dict[str, Any]] = {
    "vit": {
        "architecture": "vit_tiny_patch16_224",
        "arguments": {"patch_size": 8, "embed_dim": 96, "depth": 6, "num_heads": 3},
    },
    "cnn": {"architecture": "resnet18", "arguments": {"layers": [1, 1, 1, 1], "channels": [24, 48, 96, 192]}},
}
"""Those of the quality benchmark."""

Step = dict[str, Any]
_INT8: Step = {"name": "quantize", "dtype": "int8"}


def _prune(fraction: float, **parameters: Any) -> Step:
    return {"name": "prune", "target": {"flops": fraction}, **parameters}


@dataclass(frozen=True, slots=True)
class Group:
    """Steps of one job, by the name of the arm that each gives. ``peer`` compresses the same student."""

    name: str
    steps: Mapping[str, Step]
    peer: Literal["onnxruntime", "torch-pruning"] | None = None
    only_vit: bool = False


GROUPS = (
    Group(
        "quantized",
        {
            INT8: _INT8,
            "int8 dynamic": {**_INT8, "mode": "dynamic"},
            "int8 QAT": {**_INT8, "mode": "qat"},
            "int4 weights": {"name": "quantize", "dtype": "int4"},
            "fp16": {"name": "quantize", "dtype": "fp16"},
        },
        peer="onnxruntime",
    ),
    Group("pruned", {PRUNED: _prune(PRUNED_FLOPS), "50 % FLOPs, then int8 static": _INT8}),
    Group("pruned-labels", {PRUNED_BY_LABELS: _prune(PRUNED_FLOPS, alpha=0.0)}, peer="torch-pruning"),
    Group("pruned-30", {"30 % FLOPs": _prune(0.3)}),
    Group("shared", {"two blocks share their weights": {"name": "share"}}, only_vit=True),
    Group("merged", {"merged tokens": {"name": "merge", "ratio": 0.25}}, only_vit=True),
)
FIRST_GROUPS = 3
"""Groups that all seeds run before the others start."""
_NOT_FOR_CNN = ("int8 dynamic", "int4 weights")


@dataclass(frozen=True, slots=True)
class Protocol:
    """Settings that all runs share. ``sizes`` are images of CIFAR-10; ``test`` None is the whole test split."""

    student: str = "vit"
    seeds: int = 3
    epochs: int = 18
    views: int = 4
    sizes: SplitSizes = field(default_factory=lambda: SplitSizes(train=10_000, validation=0, assistant=0, pool=0))

    def training(self, seed: int) -> dict[str, Any]:
        """Return the training block."""
        return {
            "epochs": self.epochs, "views": self.views, "batch_size": 64, "learning_rate": 1e-3,
            "augmentation": "light", "image_size": IMAGE_SIZE, "seed": seed,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """One job. ``digest`` is a SHA-256 of everything that defines it, except the code."""

    name: str
    group: Group
    seed: int
    steps: Mapping[str, Step]
    document: Mapping[str, Any]
    digest: str


def runs(protocol: Protocol) -> Iterator[Run]:
    """Return all runs in order: the first groups of every seed, then the others."""
    for groups in (GROUPS[:FIRST_GROUPS], GROUPS[FIRST_GROUPS:]):
        for seed in range(protocol.seeds):
            for group in groups:
                if protocol.student == "vit" or not group.only_vit:
                    yield _run(protocol, group, seed)


def _run(protocol: Protocol, group: Group, seed: int) -> Run:
    excluded = _NOT_FOR_CNN if protocol.student == "cnn" else ()
    steps = {arm: step for arm, step in group.steps.items() if arm not in excluded}
    document = {
        "dataset": FINAL,
        "student": {**STUDENTS[protocol.student], "weights": "random"},
        "teachers": [{"architecture": "dla34", "weights": TEACHER}],
        "method": {"name": "kd"},
        "training": protocol.training(seed),
        # Every output is measured, whatever it loses: a gate of 100 points.
        "compression": [{"max_top1_drop": 1, **step} for step in steps.values()],
        "export": ["safetensors", "onnx"] if group.peer == "onnxruntime" else ["safetensors"],
    }
    spec = parse_job_spec(document).model_dump(mode="json")
    fields = {"spec": spec, "images": str(protocol.sizes)}
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    return Run(f"{protocol.student}-{group.name}-seed-{seed}", group, seed, steps, document, digest)

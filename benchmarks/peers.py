"""Distillation by other packages' own code: timm's ``LogitDistillationTask`` and torchdistill's ``DistillationBox``.

Both run the teacher on every batch. They get the inputs of the engine's job: the same networks and weights, the same
batches from memory, the same loss, optimizer, schedule and clipping. The comparison covers training only, without data
loading, validation and saving.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import torch
from timm.task import LogitDistillationTask
from torch import Tensor, nn

from benchmarks.workload import Workload
from core.models.built import BuiltModel
from core.spec import JobSpec

Step = Callable[[Tensor, Tensor], Tensor]
"""One training step: the student's inputs (B, C, H, W) and labels (B,) to the loss, a scalar."""

HOW_TO_INSTALL = ".venv/bin/python -m pip install --constraint constraints.txt 'torchdistill==1.1.5'"


@cache
def peers() -> Mapping[str, Callable[[JobSpec, BuiltModel, BuiltModel, int], Step]]:
    """Return the step factories by name. Without torchdistill, print how to install it and leave it out."""
    found: dict[str, Callable[[JobSpec, BuiltModel, BuiltModel, int], Step]] = {"timm.task": timm_step}
    if find_spec("torchdistill") is None:
        print(f"torchdistill is not installed, so it is left out; {HOW_TO_INSTALL}", flush=True)
    else:
        found["torchdistill"] = torchdistill_step
    return found


def train(workload: Workload, spec: JobSpec, peer: str) -> list[float]:
    """Train with a peer; return the seconds of each epoch. The first includes building the networks."""
    began = time.perf_counter()
    student, teacher = workload.networks(spec)
    loader = workload.loader(spec)
    step = peers()[peer](spec, student, teacher, spec.training.num_epochs * loader.steps_per_epoch)
    ends = []
    for number in range(spec.training.num_epochs * loader.steps_per_epoch):
        batch = loader.batch(number)
        step(student.preprocessing(batch.images), batch.labels).item()  # reads the loss, as their own loops do
        if (number + 1) % loader.steps_per_epoch == 0:
            ends.append(time.perf_counter())
    return [end - start for start, end in pairwise([began, *ends])]


def logit_task(spec: JobSpec, student: nn.Module, teacher: nn.Module) -> LogitDistillationTask:
    """Return timm's task with temperature and weights of the job's `kd`. Both have ``pretrained_cfg``."""
    method = _kd(spec)
    return LogitDistillationTask(
        student,
        teacher.requires_grad_(False),
        criterion=nn.CrossEntropyLoss(),
        distill_loss_weight=method["alpha"],
        task_loss_weight=1 - method["alpha"],
        temperature=method["temperature"],
        verbose=False,
    )


def timm_step(spec: JobSpec, student: BuiltModel, teacher: BuiltModel, total_steps: int) -> Step:
    """Return a training step as in timm's ``train.py``."""
    training = spec.training
    for network in (student, teacher):  # timm's task converts the input by these values
        network.module.pretrained_cfg |= {"mean": network.preprocessing.mean, "std": network.preprocessing.std}
    task = logit_task(spec, student.module, teacher.module)
    task.train()
    parameters = list(student.module.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=training.learning_rate, weight_decay=training.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total_steps)

    def step(inputs_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        loss: Tensor = task(inputs_BCHW, labels_B)["loss"]
        optimizer.zero_grad()
        loss.backward()
        if training.gradient_clip is not None:
            nn.utils.clip_grad_norm_(parameters, training.gradient_clip)
        optimizer.step()
        schedule.step()
        return loss

    return step


def torchdistill_box(
    spec: JobSpec, student: nn.Module, teacher: nn.Module, *, optimizer: Mapping[str, Any] | None = None
) -> Any:
    """Return torchdistill's ``DistillationBox`` with temperature and weights of the job's `kd`.

    ``optimizer`` holds the entries ``optimizer`` and ``scheduler`` of its configuration; None for the loss alone.
    """
    # Not installed by `make install`; the import loads all of its registries.
    from torchdistill.core.distillation import DistillationBox

    logging.getLogger("torchdistill").setLevel(logging.WARNING)
    box = DistillationBox(
        teacher.eval(),
        student,
        {},
        {**_torchdistill_config(spec), **(optimizer or {})},
        torch.device("cpu"),
        None,
        distributed=False,
        lr_factor=1,
    )
    box.pre_epoch_process(epoch=0)
    return box


def torchdistill_step(spec: JobSpec, student: BuiltModel, teacher: BuiltModel, total_steps: int) -> Step:
    """Return a training step as in torchdistill's image classification example."""
    training = spec.training
    optimizer = {
        "optimizer": {
            "key": "AdamW",
            "kwargs": {"lr": training.learning_rate, "weight_decay": training.weight_decay, "fused": True},
            "max_grad_norm": training.gradient_clip,
        },
        "scheduler": {"key": "CosineAnnealingLR", "kwargs": {"T_max": total_steps}, "scheduling_step": 1},
    }
    box = torchdistill_box(spec, student.module, teacher.module, optimizer=optimizer)

    def step(inputs_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        loss: Tensor = box.forward_process(inputs_BCHW, targets=labels_B, supp_dict=None)
        box.post_forward_process(loss=loss)
        return loss

    return step


def _torchdistill_config(spec: JobSpec) -> dict[str, Any]:
    method = _kd(spec)
    logits = {"student_module_path": ".", "student_module_io": "output", "teacher_module_path": "."}
    weights = {"temperature": method["temperature"], "alpha": 1 - method["alpha"], "beta": method["alpha"]}
    divergence = {"key": "KDLoss", "kwargs": {**logits, "teacher_module_io": "output", **weights}}
    return {
        "num_epochs": spec.training.num_epochs,
        "teacher": {"requires_grad": False, "forward_proc": "forward_batch_only"},
        "student": {"requires_grad": True, "forward_proc": "forward_batch_only"},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": divergence, "weight": 1.0}}},
        },
    }


def _kd(spec: JobSpec) -> dict[str, Any]:
    assert spec.method.name == "kd", "peers are compared on soft labels"
    return spec.method.model_dump()

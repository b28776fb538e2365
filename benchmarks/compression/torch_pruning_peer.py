"""Torch-Pruning on a trained student, as its example for timm's ViTs uses it, and a fine-tuning on labels alone.

Criterion and its images, target, epochs, rates and batches are those of the step ``prune``. Every layer loses the same
fraction, and every head loses the same number of dimensions, which is the library's default.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch_pruning
from timm.layers.attention import Attention
from torch import nn

from core.compress.fine_tuning import fine_tuning_block
from core.compress.pruning_target import least_fraction
from core.data.holdout import draw_images, hold_out
from core.data.pixels import Pixels
from core.evaluate import evaluate_accuracy
from core.evaluate.flops import count_flops
from core.evaluate.latency import measure_latency
from core.evaluate.measure import state_bytes
from core.models.built import BuiltModel
from core.models.meta_device import count_parameters
from core.spec import JobSpec, TrainingSpec
from core.spec.compression.prune import PruneParams
from core.train.loader import BatchLoader
from core.train.optimizer import build_optimizer
from core.train.schedule import Schedule

_BATCH_SIZE = 32  # of the images of the criterion
_MAX_FRACTION = 0.9
_NUM_BISECTIONS = 8


def prune(student: BuiltModel, spec: JobSpec, pixels: Pixels) -> BuiltModel:
    """Prune a copy of a job's student to the target of the job's step ``prune``, and train it on labels.

    ``pixels`` is the training split; the images that the job holds out are left out here too. The result's
    ``architecture`` and ``arguments`` are still those of ``student``.
    """
    (params,) = spec.compression
    assert isinstance(params, PruneParams)
    assert params.target.measure == "flops"
    training, _ = hold_out(pixels, spec.held_out_fraction, spec.training.seed)
    limit = params.target.value * _flops(student, student.module)
    fraction = least_fraction(
        lambda fraction: _flops(student, _pruned(student, fraction * _MAX_FRACTION, None)),
        limit,
        num_bisections=_NUM_BISECTIONS,
    )
    assert fraction is not None, "the target is out of reach"
    images = draw_images(training, params.importance_images, spec.training.seed)
    module = _pruned(student, fraction * _MAX_FRACTION, images)
    _train(student, module, fine_tuning_block(spec.training, params), training)
    return replace(student, module=module.eval())


def measure(pruned: BuiltModel, test: Pixels) -> dict[str, Any]:
    """Return the figures of a network that timm cannot build."""
    example_1CHW = pruned.preprocessing(torch.from_numpy(np.array(test.images[:1])).float() / 255)
    return {
        "top1": evaluate_accuracy(pruned, test).top1,
        "size_bytes": state_bytes(pruned),
        "latency_ms": round(measure_latency(pruned.module, example_1CHW[0], batch_sizes=(1,))[0].milliseconds, 4),
        "parameters": count_parameters(pruned.module),
        "flops": _flops(pruned, pruned.module),
    }


def _pruned(student: BuiltModel, fraction: float, images: Pixels | None) -> nn.Module:
    """Return a copy without a fraction of each layer; ranked by magnitude where ``images`` is None."""
    module = copy.deepcopy(student.module).eval().requires_grad_()
    size, scores = student.preprocessing.image_size, torch_pruning.importance
    attentions = [part for part in module.modules() if isinstance(part, Attention)]
    classifier = module.get_classifier()  # type: ignore[operator]
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about parameters that belong to no layer, which it handles
        pruner = torch_pruning.pruner.BasePruner(
            module,
            torch.zeros(1, student.preprocessing.channels, size, size),
            importance=scores.GroupMagnitudeImportance() if images is None else scores.GroupTaylorImportance(),
            pruning_ratio=fraction,
            ignored_layers=[classifier],
            in_channel_groups={},  # its defaults are shared by all pruners
            out_channel_groups={},
            num_heads={attention.qkv: attention.num_heads for attention in attentions},
        )
        if images is not None:
            for images_BCHW, labels_B in _batches(images):
                nn.functional.cross_entropy(
                    module(student.preprocessing(images_BCHW)), labels_B, reduction="sum"
                ).backward()
        pruner.step()
    for attention in attentions:
        attention.num_heads = pruner.num_heads[attention.qkv]
        attention.attn_dim = attention.qkv.out_features // 3
        attention.head_dim = attention.attn_dim // attention.num_heads
    for parameter in module.parameters():
        parameter.grad = None
    return module


def _batches(images: Pixels) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for indices_B in torch.arange(len(images)).split(_BATCH_SIZE):
        yield images.batch(indices_B).float() / 255, images.labels[indices_B]


def _train(student: BuiltModel, module: nn.Module, training: TrainingSpec, pixels: Pixels) -> None:
    """Train on labels alone."""
    loader = BatchLoader(
        pixels,
        batch_size=training.batch_size,
        augmentation=training.augmentation,
        views=training.distinct_views,
        seed=training.seed,
        device=torch.device("cpu"),
    )
    schedule = Schedule.from_spec(training, steps_per_epoch=loader.steps_per_epoch)
    optimizer = build_optimizer(
        [module], name="adamw", learning_rate=training.learning_rate, weight_decay=training.weight_decay
    )
    module.train()
    for step in range(schedule.total_steps):
        batch = loader.batch(step)
        logits_BK = module(student.preprocessing(batch.images))
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits_BK, batch.labels, label_smoothing=training.label_smoothing).backward()
        if training.gradient_clip is not None:
            nn.utils.clip_grad_norm_(module.parameters(), training.gradient_clip)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        optimizer.step()


def _flops(student: BuiltModel, module: nn.Module) -> int:
    preprocessing = student.preprocessing
    size = preprocessing.image_size
    on_meta = copy.deepcopy(module).to("meta")
    return count_flops(on_meta, torch.empty(1, preprocessing.channels, size, size, device="meta"))

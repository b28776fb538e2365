"""Jobs that take seconds and have every step of a long one: a trained teacher, checkpoints, an export."""

from __future__ import annotations

from tests.support.specs import kd_job

STEPS_PER_EPOCH = 23  # the training split of the digits in batches of 64
# Compression steps that are applied, whatever they lose.
PRUNE = {"name": "prune", "target": {"flops": 0.6}, "importance_images": 64, "max_top1_drop": 1}
QUANTIZE = {"name": "quantize", "dtype": "int8", "calibration_images": 64, "max_top1_drop": 1}


def small_job(
    dataset: str,
    *,
    epochs: int,
    teacher_epochs: int = 3,
    seed: int = 0,
    export=("safetensors",),
    compression=(),
    baseline: bool = False,
    checkpoint_every_epochs: int = 1,
) -> dict:
    return kd_job(
        dataset,
        epochs=epochs,
        teacher_epochs=teacher_epochs,
        seed=seed,
        training={
            "checkpoint_every_epochs": checkpoint_every_epochs,
            "keep_weights_every_epochs": max(1, epochs // 2),
        },
        name=f"chaos {seed}",
        export=list(export),
        compression=list(compression),
        baseline=baseline,
        # One thread per job: two workers on two CPU cores then do not wait for each other.
        resources={"threads": 1},
    )

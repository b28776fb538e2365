"""Jobs that take seconds and have every step of a long one: a trained teacher, checkpoints, an export."""

from __future__ import annotations

from tests.support.specs import kd_job

STEPS_PER_EPOCH = 23  # the training split of the digits in batches of 64


def small_job(
    dataset: str,
    *,
    epochs: int,
    teacher_epochs: int = 3,
    seed: int = 0,
    export=("safetensors",),
    compression=(),
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
        # One thread per job: two workers on two CPU cores then do not wait for each other.
        resources={"threads": 1},
    )

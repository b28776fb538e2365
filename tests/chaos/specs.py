"""Small jobs with everything in them that a large one has: a teacher to train, checkpoints, an export."""

from __future__ import annotations

VIT = {"img_size": 8, "patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 2}
STEPS_PER_EPOCH = 23  # the training split of the digits in batches of 64


def small_job(dataset: str, *, epochs: int, teacher_epochs: int = 3, seed: int = 0, export=("safetensors",)) -> dict:
    lessons = {"batch_size": 64, "learning_rate": 3e-3, "augmentation": "none"}
    return {
        "name": f"chaos {seed}",
        "dataset": dataset,
        "student": {"architecture": "vit_tiny_patch16_224", "arguments": VIT},
        "teachers": [
            {
                "architecture": "vit_tiny_patch16_224",
                "weights": "train",
                "arguments": {**VIT, "embed_dim": 64},
                "training": {**lessons, "epochs": teacher_epochs, "seed": seed},
            }
        ],
        "method": {"name": "kd"},
        "training": {
            **lessons,
            "epochs": epochs,
            "image_size": 8,
            "seed": seed,
            "checkpoint_every_epochs": 1,
            "keep_weights_every_epochs": max(1, epochs // 2),
        },
        "export": list(export),
        # One thread each, so that two workers of a machine with two processors do not wait for each other.
        "resources": {"threads": 1},
    }

"""Documents that many tests send: a tiny model, a small job, the digits dataset."""

DIGITS = {"name": "digits", "source": {"type": "builtin", "name": "digits"}}


def tiny_vit(**arguments):
    """A ViT of two blocks for 8 × 8 images, as the student or teacher of a spec; ``arguments`` override its own."""
    tiny = {"img_size": 8, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return {"architecture": "vit_tiny_patch16_224", "arguments": {**tiny, **arguments}}


def kd_job(dataset_id, *, epochs, teacher_epochs, seed=0, training=None, **changes):
    """A spec that trains a teacher and distills it into a student with ``kd``; ``changes`` replace its fields."""
    common = {"batch_size": 64, "learning_rate": 3e-3, "augmentation": "none", "seed": seed}
    teacher = {**tiny_vit(embed_dim=64), "weights": "train", "training": {**common, "epochs": teacher_epochs}}
    return {
        "dataset": dataset_id,
        "student": tiny_vit(),
        "teachers": [teacher],
        "method": {"name": "kd"},
        "training": {**common, "epochs": epochs, "image_size": 8, **(training or {})},
        **changes,
    }

"""A job that succeeded with a real, random student, and with a teacher that it has trained."""

import io

import numpy as np
import timm
import torch
from PIL import Image

from core.models.preprocessing import plain_preprocessing
from core.models.weights import save_folder
from core.store import events, jobs, teachers
from core.store.jobs import NewArtifact

CLASSES = ("cat", "dog", "owl")
ARGUMENTS = {
    "img_size": 8, "patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 3, "in_chans": 3,
}  # fmt: skip
MEASURES = {"top1": 0.5, "top5": 1.0, "parameters": 10, "flops": 1e6, "size_bytes": 40, "latency_ms": 1.0}


def noise_png(size=(30, 20)):
    """Return a PNG of random pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (*reversed(size), 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def save_network(folder, seed, classes):
    """Write a random ViT for images of 8 pixels; return its paths."""
    torch.manual_seed(seed)
    save_folder(
        timm.create_model("vit_tiny_patch16_224", **ARGUMENTS),
        folder,
        architecture="vit_tiny_patch16_224",
        arguments=ARGUMENTS,
        preprocessing=plain_preprocessing(image_size=8, channels=3),
        classes=classes,
    )
    return [folder / "config.json", folder / "model.safetensors"]


def finish_with_student(tenant, lease, folder):
    """End a job as its worker does. The networks are in the folders `student` and `teacher`."""
    store = tenant.server.store
    stored = {}
    for seed, (role, classes) in enumerate({"student": CLASSES, "teacher": None}.items()):
        prefix = f"jobs/{lease.job_id}/a{lease.attempt}/{role}"
        paths = save_network(folder / role, seed, classes)
        stored[role] = [store.put(f"{prefix}/{path.name}", path) for path in paths]
    artifacts = [NewArtifact(file.name, "application/octet-stream", file) for file in stored["student"]]
    result = {"student": MEASURES, "teachers": [MEASURES], "compressed": [], "agreement": 0.9}
    with tenant.database.write() as session:
        teachers.save(session, lease, "f" * 64, stored["teacher"])
        events.append(session, lease, "teacher.trained", "Trained.", data={"teacher": 0, "recipe": "f" * 64})
        jobs.succeed(session, lease, result=result, artifacts=artifacts, model_id=None)

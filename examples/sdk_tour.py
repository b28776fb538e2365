"""Every resource of the SDK, once: `python examples/sdk_tour.py`, with POTSTILL_URL and POTSTILL_API_KEY set.

Distills a small ViT from a CNN on handwritten digits in about a minute. `make check` checks this file with mypy
--strict.
"""

from __future__ import annotations

from pathlib import Path

from potstill import ApiError, JobSpec, Potstill
from potstill.errors import InvalidSpec, InvalidState

OUT = Path("sdk-tour")
SPEC: JobSpec = {
    "name": "tour",
    "dataset": "digits",
    "teachers": [
        {
            "architecture": "resnet18",
            "weights": "train",
            "arguments": {"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 128]},
            "training": {"epochs": 2, "batch_size": 64, "augmentation": "none"},
        }
    ],
    "student": {
        "architecture": "vit_tiny_patch16_224",
        "arguments": {"patch_size": 4, "embed_dim": 48, "depth": 2, "num_heads": 3},
    },
    "method": {"name": "kd", "temperature": 2.0},
    "training": {"epochs": 4, "batch_size": 64, "augmentation": "none", "image_size": 32},
    "export": ["safetensors", "onnx"],
}


def main(client: Potstill, out: Path = OUT) -> None:
    """Show the service and its catalogs, run one job, and read all that it leaves."""
    show_service(client)
    dataset = client.datasets.create({"type": "builtin", "name": "digits"}, name="digits").wait(progress=True)
    print(f"{dataset.name}: {dataset.num_classes} classes, {dataset.created_at:%Y-%m-%d}")
    job_id = run_job(client, {**SPEC, "dataset": dataset.id})
    show_results(client, job_id, out)
    reuse_student(client, job_id, out)
    run_sweep(client, {**SPEC, "dataset": dataset.id})


def show_service(client: Potstill) -> None:
    """Print the state of the service, and what jobs can be made of."""
    print(f"{client.service.health().status}, {client.service.ready().status}")
    workers, usage = client.service.workers(), client.service.usage()
    print(f"{len(workers.data)} processes, {usage.jobs.used} jobs of {usage.jobs.limit or 'any number'}")
    method = client.methods.get("kd")
    print(f"{len(client.methods.list())} methods; {method.name}: {method.summary}")
    print(f"uploads up to {client.uploads.limits().max_bytes} bytes; {len(list(client.uploads.list(limit=3)))} there")
    print([(webhook.url, webhook.status) for webhook in client.webhooks.list(limit=3)])
    print([architecture.name for architecture in client.architectures.list("vit_tiny", limit=3)])


def run_job(client: Potstill, spec: JobSpec) -> str:
    """Estimate and submit a job, wait for it, and return its id."""
    try:
        estimate = client.jobs.estimate(spec)
    except InvalidSpec as error:
        print([f"{each['pointer']}: {each['detail']}" for each in error.errors])
        raise
    print(f"{estimate.total_steps} steps; warnings: {[warning.code for warning in estimate.warnings]}")
    job = client.jobs.create(spec).wait(progress=True, check=True)
    try:
        job.pause()
    except InvalidState as error:
        print(f"as expected: {error.detail}")
    return job.id


def run_sweep(client: Potstill, spec: JobSpec) -> None:
    """Submit a job for each of two temperatures, wait for both, and print the smallest and the best student."""
    grid = {"method.temperature": [1.0, 4.0]}
    print(f"{client.sweeps.estimate(spec, grid).seconds:.0f} s on one worker")
    sweep = client.sweeps.create(spec, grid, name="temperatures").wait()
    for point in sweep.front("size_bytes"):
        print(f"job {point.number}: top-1 {point.top1}, {point.size_bytes} bytes")


def show_results(client: Potstill, job_id: str, out: Path) -> None:
    """Read result, events, metrics and files of a job."""
    job = client.jobs.get(job_id)
    if job.result is not None and job.result.student.top1 is not None:
        print(f"top-1 {job.result.student.top1:.1%}, {job.result.student.parameters} parameters")
    print([event.type for event in job.events()][:5])
    metrics = job.metrics(max_points=100)
    print(f"{len(metrics.names)} metric series")
    print([(checkpoint.step, checkpoint.sha256[:8]) for checkpoint in job.checkpoints()])
    paths = job.download(out / job.id, progress=True)
    print([path.name for path in paths])


def reuse_student(client: Potstill, job_id: str, out: Path) -> None:
    """Upload the student as a model, list what there is, and delete what was made."""
    model = client.models.upload(
        out / job_id / "model.safetensors",
        architecture=SPEC["student"]["architecture"] or "",
        arguments={**SPEC["student"]["arguments"], "img_size": 32, "in_chans": 1, "num_classes": 10},
        name="tour student",
    )
    print(f"{model.id} is {model.wait().status}")
    print([each.name for each in client.models.list(limit=3)], [each.id for each in client.jobs.list(limit=3)])
    model.delete()
    try:
        key = client.keys.create("tour", scopes=["read"], expires_in_days=1)
        client.keys.revoke(key.id)
        print([entry.action for entry in client.service.audit_log(limit=3)])
    except ApiError as error:
        print(f"this key may not manage keys: {error.code}")


if __name__ == "__main__":
    with Potstill() as default_client:
        main(default_client)

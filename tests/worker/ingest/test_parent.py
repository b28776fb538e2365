"""Ingest of datasets and models in forked processes; every failure has a reason."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from core.errors import ProcessLost, restore_error
from core.reporting import Control
from core.store import datasets, models
from tests.support.archives import encode_image, make_color_dataset, make_zip
from worker.claim_loop import run_next
from worker.ingest import child
from worker.ingest.parent import DATASETS, MODELS
from worker.ingest.sandboxed import SandboxCrashed, SandboxTimeout
from worker.process.shared_flags import DRAIN

TINY = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 3}


@pytest.fixture
def upload(service, store, tmp_path):
    """Return a function that uploads a dataset, which then waits for its ingest."""

    def create(content, **source_fields):
        source = tmp_path / "upload"
        source.write_bytes(content)
        key = store.put("uploads/x/file", source).key
        source_document = {"type": "file", "filename": "a.zip", **source_fields}
        return service.write(datasets.create, service.project, name="uploaded", source=source_document, upload_key=key)

    return create


def reload(service, dataset):
    return service.read(datasets.get, service.project, dataset.id)


def test_an_archive_becomes_a_dataset_and_its_upload_is_deleted(service, store, upload):
    dataset = upload(make_color_dataset(4, {"train/red/broken.png": b"not an image"}))
    run_next(DATASETS)

    ready = reload(service, dataset)
    assert (ready.status, ready.classes, ready.splits["train"]["num_samples"]) == ("ready", ["blue", "red"], 8)
    assert [rejected["path"] for rejected in ready.rejected] == ["train/red/broken.png"]
    assert [store.measure(file["key"]).sha256 for file in ready.files] == [file["sha256"] for file in ready.files]
    assert list(store.list_prefix("uploads")) == []
    assert list((service.settings.home / "work").iterdir()) == []


def test_a_parquet_file_becomes_a_dataset(service, upload):
    images = []
    for k in range(20):
        images.append({"bytes": encode_image(Image.new("RGB", (8, 8), (k, 0, 0))), "path": None})
    table = io.BytesIO()
    pq.write_table(
        pa.table({"image": [*images, {"bytes": b"x", "path": None}], "label": ["b", "a"] * 10 + ["a"]}), table
    )

    dataset = upload(table.getvalue())
    run_next(DATASETS)

    ready = reload(service, dataset)
    assert (ready.status, ready.classes, ready.splits["train"]["num_samples"]) == ("ready", ["a", "b"], 16)
    assert [rejected["path"] for rejected in ready.rejected] == ["data.parquet#20"]


def test_folders_become_an_unlabeled_dataset_if_labels_are_none(service, upload):
    dataset = upload(make_color_dataset(4), labels="none")
    run_next(DATASETS)

    ready = reload(service, dataset)
    assert (ready.status, ready.num_classes, ready.classes) == ("ready", None, None)
    assert ready.splits == {"train": {"num_samples": 8}, "test": {"num_samples": 8}}


def test_unclear_folders_fail_with_both_readings_and_the_stored_choice_decides(service, upload):
    files = {}
    for index, folder in enumerate(("part1/red", "part1/blue", "part2/red", "part2/blue")):
        for k in range(3):
            image = Image.new("RGB", (8, 8), (index, k, 0))
            files[f"{folder}/{k}.png"] = encode_image(image)
    unclear = upload(make_zip(files))
    run_next(DATASETS)
    chosen = upload(make_zip(files), splits={"train": "part1", "test": "part2"})
    run_next(DATASETS)

    failed, ready = reload(service, unclear), reload(service, chosen)
    assert (failed.status, failed.error["code"]) == ("failed", "layout_unclear")
    assert all(word in failed.error["message"] for word in ("(1)", "(2)", "class_from", "splits"))
    assert (ready.status, ready.classes) == ("ready", ["blue", "red"])
    assert ready.splits == {"train": {"num_samples": 6}, "test": {"num_samples": 6}}


def test_a_builtin_dataset_needs_no_upload(service):
    dataset = service.write(datasets.create, service.project, name="d", source={"type": "builtin", "name": "digits"})
    run_next(DATASETS)

    assert (reload(service, dataset).status, reload(service, dataset).num_classes) == ("ready", 10)


def test_a_file_that_is_no_archive_fails_with_the_reason(service, store, upload):
    dataset = upload(b"hello")
    run_next(DATASETS)

    failed = reload(service, dataset)
    assert (failed.status, failed.error["code"]) == ("failed", "archive_unreadable")
    assert list(store.list_prefix("uploads")) == []


def test_a_lost_upload_fails_the_dataset(service, store, upload):
    dataset = upload(make_color_dataset(4))
    store.delete("uploads/x/file")
    run_next(DATASETS)

    assert reload(service, dataset).status == "failed"


def test_a_dataset_that_crashes_its_process_is_retried_and_then_fails(service, upload, monkeypatch):
    dataset = upload(make_color_dataset(4))
    monkeypatch.setattr(DATASETS, "run", lambda *_: 9)
    for _ in range(4):
        run_next(DATASETS)

    failed = reload(service, dataset)
    assert (failed.status, failed.error["code"]) == ("failed", "worker_lost")


def test_a_dataset_that_is_deleted_during_its_ingest_stays_deleted(service, upload, monkeypatch):
    dataset = upload(make_color_dataset(4))
    run = DATASETS.run

    def delete_first(context, *rest):
        with context.database.write() as session:
            datasets.delete(session, service.project, dataset.id)
        return run(context, *rest)

    monkeypatch.setattr(DATASETS, "run", delete_first)
    run_next(DATASETS)

    assert dataset.id not in [row.id for row in service.read(datasets.list_datasets, service.project).items]


def test_a_drained_worker_releases_its_dataset(service, upload, store):
    dataset = upload(make_color_dataset(4))

    def drained(context, row, _control):
        DRAIN.set(1)
        return run(context, row, lambda: Control.DRAIN)

    run = DATASETS.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DATASETS, "run", drained)
        run_next(DATASETS)
    DRAIN.set(0)

    waiting = reload(service, dataset)
    assert (waiting.status, waiting.worker_losses, waiting.worker_id) == ("processing", 0, None)
    assert [listed.key for listed in store.list_prefix("uploads")] == ["uploads/x/file"]


@pytest.fixture
def upload_model(service, store, tmp_path):
    """Return a function that uploads a model, which then waits for its check."""

    def create(arguments, architecture="vit_tiny_patch16_224"):
        import timm

        torch.manual_seed(0)
        weights = timm.create_model("vit_tiny_patch16_224", **TINY).state_dict()
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, tmp_path / "weights")
        key = store.put("uploads/m/file", tmp_path / "weights").key
        return service.write(
            models.create,
            service.project,
            name="m",
            architecture=architecture,
            arguments=arguments,
            upload_key=key,
            classes=["a", "b", "c"],
        )

    return create


def test_an_uploaded_model_is_loaded_and_stored(service, store, upload_model):
    waiting = upload_model(TINY)
    run_next(MODELS)

    ready = service.read(models.get, service.project, waiting.id)
    assert (ready.status, ready.error, ready.num_classes) == ("ready", None, 3)
    config = next(file for file in ready.files if file["key"].endswith("config.json"))
    assert json.loads(store.local_path(config["key"]).read_text())["architecture"] == "vit_tiny_patch16_224"
    assert models.model_info(ready).parameters == ready.parameters


@pytest.mark.slow  # starts one more process that imports torch; tests/core/models covers each error
def test_a_model_with_mismatched_weights_fails(service, upload_model):
    waiting = upload_model(TINY | {"embed_dim": 32})
    run_next(MODELS)

    failed = service.read(models.get, service.project, waiting.id)
    assert (failed.status, failed.error["code"]) == ("failed", "weights_mismatch")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SandboxTimeout(), "ingest_timeout"),
        (SandboxCrashed("by SIGSEGV"), "ingest_crashed"),
        (RuntimeError("a bug"), "internal_error"),
    ],
)
def test_a_dataset_whose_process_fails_has_the_reason(service, upload, monkeypatch, error, code):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(child, "run_sandboxed", fail)
    dataset = upload(make_color_dataset(4))
    run_next(DATASETS)

    failed = reload(service, dataset)
    assert (failed.status, failed.error["code"]) == ("failed", code)


def test_a_dataset_whose_process_was_killed_is_retried(service, upload, monkeypatch):
    def killed(*_, **__):
        raise ProcessLost("killed")

    dataset = upload(make_color_dataset(4))
    with monkeypatch.context() as patch:
        patch.setattr(child, "run_sandboxed", killed)
        run_next(DATASETS)
    assert reload(service, dataset).status == "processing"
    run_next(DATASETS)

    assert (reload(service, dataset).status, reload(service, dataset).worker_losses) == ("ready", 1)


def test_a_dataset_without_an_image_lists_the_rejected_files(service, upload):
    dataset = upload(make_zip({"../outside.png": b"x", "train/notes.txt": b"x"}))
    run_next(DATASETS)

    failed = reload(service, dataset)
    assert (failed.status, failed.error["code"]) == ("failed", "no_images")
    assert [(rejected["path"], rejected["code"]) for rejected in failed.rejected] == [
        ("../outside.png", "unsafe_path"),
        ("train/notes.txt", "not_an_image"),
    ]


@pytest.mark.parametrize(
    ("error", "code"), [(SandboxTimeout(), "model_check_timeout"), (SandboxCrashed("x"), "model_check_failed")]
)
def test_a_model_whose_process_fails_has_the_reason(service, upload_model, monkeypatch, error, code):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(child, "run_sandboxed", fail)
    waiting = upload_model(TINY)
    run_next(MODELS)

    failed = service.read(models.get, service.project, waiting.id)
    assert (failed.status, failed.error["code"]) == ("failed", code)


def test_bit_depth_and_crop_are_in_the_row(service, upload):
    def deep(value):
        return encode_image(Image.fromarray(np.full((8, 24), value, np.uint16)), "TIFF")

    names = [f"{split}/{c}/{k}.tif" for split in ("train", "test") for c in "ab" for k in range(2)]
    dataset = upload(make_zip({name: deep(1000 + 400 * k) for k, name in enumerate(names)}))
    run_next(DATASETS)

    ready = reload(service, dataset)
    assert (ready.value_range, ready.cropped_fraction) == ({"bits": 12, "max": 4095}, 1.0)
    assert [warning["code"] for warning in ready.warnings] == ["aspect_ratio_cropped"]


def test_a_file_that_crashes_its_decoder_is_named(service, upload, monkeypatch):
    error = {"code": "ingest_crashed", "title": "", "status": 422, "detail": "decoded a.png", "errors": [], "extra": {}}

    def crash(*_, **__):
        raise restore_error(error)

    monkeypatch.setattr(child, "run_sandboxed", crash)
    dataset = upload(make_color_dataset(4))
    run_next(DATASETS)

    failed = reload(service, dataset)
    assert (failed.status, failed.error["code"], failed.error["message"]) == (
        "failed",
        "ingest_crashed",
        "decoded a.png",
    )

"""Datasets and models are taken in by a process of their own, and every end is said."""

import io
import json
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from core.errors import ProcessLost
from core.reporting import Control
from core.store import datasets, models
from worker.claim_loop import run_next
from worker.ingest.parent import DATASETS, MODELS
from worker.ingest.sandboxed import SandboxCrashed, SandboxTimeout
from worker.process.shared_flags import DRAIN

TINY = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 3}


def archive(per_class=4, broken=False):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        for split in ("train", "test"):
            for name, colour in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
                for k in range(per_class):
                    picture = io.BytesIO()
                    Image.new("RGB", (8, 8), tuple(min(255, c + k) for c in colour)).save(picture, "PNG")
                    packed.writestr(f"{split}/{name}/{k}.png", picture.getvalue())
        if broken:
            packed.writestr("train/red/broken.png", b"not a picture")
    return out.getvalue()


@pytest.fixture
def sent(service, store, tmp_path):
    """A dataset that was uploaded and waits."""

    def send(content, **source_fields):
        source = tmp_path / "sent"
        source.write_bytes(content)
        key = store.put("uploads/x/file", source).key
        described = {"type": "file", "filename": "a.zip", **source_fields}
        return service.do(datasets.create, service.project, name="sent", source=described, upload_key=key)

    return send


def see(service, dataset):
    return service.ask(datasets.get, service.project, dataset.id)


def test_an_archive_becomes_a_dataset_and_its_upload_goes_away(service, store, sent):
    dataset = sent(archive(broken=True))
    run_next(DATASETS)

    ready = see(service, dataset)
    assert (ready.status, ready.classes, ready.splits["train"]["num_samples"]) == ("ready", ["blue", "red"], 8)
    assert [one["path"] for one in ready.rejected] == ["train/red/broken.png"]
    assert [store.measure(file["key"]).sha256 for file in ready.files] == [file["sha256"] for file in ready.files]
    assert list(store.list_prefix("uploads")) == []
    assert list((service.settings.home / "work").iterdir()) == []


def test_a_parquet_file_becomes_a_dataset(service, sent):
    pictures = []
    for k in range(20):
        picture = io.BytesIO()
        Image.new("RGB", (8, 8), (k, 0, 0)).save(picture, "PNG")
        pictures.append({"bytes": picture.getvalue(), "path": None})
    table = io.BytesIO()
    pq.write_table(
        pa.table({"image": [*pictures, {"bytes": b"x", "path": None}], "label": ["b", "a"] * 10 + ["a"]}), table
    )

    dataset = sent(table.getvalue())
    run_next(DATASETS)

    ready = see(service, dataset)
    assert (ready.status, ready.classes, ready.splits["train"]["num_samples"]) == ("ready", ["a", "b"], 16)
    assert [one["path"] for one in ready.rejected] == ["data.parquet#20"]


def test_folders_become_an_unlabelled_dataset_where_no_labels_are_wanted(service, sent):
    dataset = sent(archive(), labels="none")
    run_next(DATASETS)

    ready = see(service, dataset)
    assert (ready.status, ready.num_classes, ready.classes) == ("ready", None, None)
    assert ready.splits == {"train": {"num_samples": 8}, "test": {"num_samples": 8}}


def test_a_builtin_dataset_needs_no_upload(service):
    dataset = service.do(datasets.create, service.project, name="d", source={"type": "builtin", "name": "digits"})
    run_next(DATASETS)

    assert (see(service, dataset).status, see(service, dataset).num_classes) == ("ready", 10)


def test_what_is_no_archive_ends_failed_with_the_reason(service, store, sent):
    dataset = sent(b"hello")
    run_next(DATASETS)

    failed = see(service, dataset)
    assert (failed.status, failed.error["code"]) == ("failed", "archive_unreadable")
    assert list(store.list_prefix("uploads")) == []


def test_an_upload_that_is_lost_is_said(service, store, sent):
    dataset = sent(archive())
    store.delete("uploads/x/file")
    run_next(DATASETS)

    assert see(service, dataset).status == "failed"


def test_a_dataset_that_takes_its_process_down_is_tried_again_and_given_up(service, sent, monkeypatch):
    dataset = sent(archive())
    monkeypatch.setattr(DATASETS, "run", lambda *_: 9)
    for _ in range(4):
        run_next(DATASETS)

    failed = see(service, dataset)
    assert (failed.status, failed.error["code"]) == ("failed", "worker_lost")


def test_a_dataset_that_was_deleted_meanwhile_stays_deleted(service, sent, monkeypatch):
    dataset = sent(archive())
    run = DATASETS.run

    def delete_first(context, *rest):
        with context.database.write() as session:
            datasets.delete(session, service.project, dataset.id)
        return run(context, *rest)

    monkeypatch.setattr(DATASETS, "run", delete_first)
    run_next(DATASETS)

    assert dataset.id not in [one.id for one in service.ask(datasets.list_datasets, service.project).items]


def test_a_drained_worker_hands_a_dataset_back(service, sent, store):
    dataset = sent(archive())

    def drained(context, row, _control):
        DRAIN.set(1)
        return run(context, row, lambda: Control.DRAIN)

    run = DATASETS.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DATASETS, "run", drained)
        run_next(DATASETS)
    DRAIN.set(0)

    waiting = see(service, dataset)
    assert (waiting.status, waiting.worker_losses, waiting.worker_id) == ("processing", 0, None)
    assert [listed.key for listed in store.list_prefix("uploads")] == ["uploads/x/file"]


@pytest.fixture
def model(service, store, tmp_path):
    """An uploaded model that waits."""

    def send(arguments, architecture="vit_tiny_patch16_224"):
        import timm

        torch.manual_seed(0)
        weights = timm.create_model("vit_tiny_patch16_224", **TINY).state_dict()
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, tmp_path / "weights")
        key = store.put("uploads/m/file", tmp_path / "weights").key
        return service.do(
            models.create,
            service.project,
            name="m",
            architecture=architecture,
            arguments=arguments,
            upload_key=key,
            classes=["a", "b", "c"],
        )

    return send


def test_an_uploaded_model_is_loaded_and_stored(service, store, model):
    waiting = model(TINY)
    run_next(MODELS)

    ready = service.ask(models.get, service.project, waiting.id)
    assert (ready.status, ready.error, ready.num_classes) == ("ready", None, 3)
    config = next(file for file in ready.files if file["key"].endswith("config.json"))
    assert json.loads(store.local_path(config["key"]).read_text())["architecture"] == "vit_tiny_patch16_224"
    assert models.model_info(ready).parameters == ready.parameters


@pytest.mark.slow  # one more process that imports torch; core/models has the faults one by one
def test_a_model_that_does_not_fit_ends_failed_with_what_differs(service, model):
    waiting = model(TINY | {"embed_dim": 32})
    run_next(MODELS)

    failed = service.ask(models.get, service.project, waiting.id)
    assert (failed.status, failed.error["code"]) == ("failed", "weights_mismatch")


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (SandboxTimeout(), "ingest_timeout"),
        (SandboxCrashed("by SIGSEGV"), "ingest_crashed"),
        (RuntimeError("a bug"), "internal_error"),
    ],
)
def test_a_dataset_whose_process_ends_badly_is_failed_with_the_reason(service, sent, monkeypatch, end, code):
    def ended(*_, **__):
        raise end

    monkeypatch.setattr("worker.ingest.child.run_sandboxed", ended)
    dataset = sent(archive())
    run_next(DATASETS)

    failed = see(service, dataset)
    assert (failed.status, failed.error["code"]) == ("failed", code)


def test_a_dataset_whose_process_was_killed_is_tried_again(service, sent, monkeypatch):
    def killed(*_, **__):
        raise ProcessLost("killed")

    dataset = sent(archive())
    with monkeypatch.context() as patch:
        patch.setattr("worker.ingest.child.run_sandboxed", killed)
        run_next(DATASETS)
    assert see(service, dataset).status == "processing"
    run_next(DATASETS)

    assert (see(service, dataset).status, see(service, dataset).worker_losses) == ("ready", 1)


def test_a_dataset_without_an_image_says_which_files_were_left_out(service, sent):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        packed.writestr("../outside.png", b"x")
        packed.writestr("train/notes.txt", b"x")
    dataset = sent(out.getvalue())
    run_next(DATASETS)

    failed = see(service, dataset)
    assert (failed.status, failed.error["code"]) == ("failed", "no_images")
    assert [(one["path"], one["code"]) for one in failed.rejected] == [
        ("../outside.png", "unsafe_path"),
        ("train/notes.txt", "not_an_image"),
    ]


@pytest.mark.parametrize(
    ("end", "code"), [(SandboxTimeout(), "model_check_timeout"), (SandboxCrashed("x"), "model_check_failed")]
)
def test_a_model_whose_process_ends_badly_is_failed_with_the_reason(service, model, monkeypatch, end, code):
    def ended(*_, **__):
        raise end

    monkeypatch.setattr("worker.ingest.child.run_sandboxed", ended)
    waiting = model(TINY)
    run_next(MODELS)

    failed = service.ask(models.get, service.project, waiting.id)
    assert (failed.status, failed.error["code"]) == ("failed", code)

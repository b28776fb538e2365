"""`python -m core run`: a job without the service."""

import json
import os
import re
import signal
import threading
import time

import pytest
import timm
import torch
import yaml
from typer.testing import CliRunner

from core.__main__ import app
from tests.support.images import write_gray_images


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def images(tmp_path):
    """Folder of 40 images of two classes, without a split."""
    for label in range(2):
        write_gray_images(tmp_path / "images" / f"class{label}", range(100 * label, 100 * label + 20))
    return tmp_path / "images"


def document(**more):
    return {
        "student": {
            "architecture": "vit_tiny_patch16_224",
            "arguments": {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2},
        },
        "method": {"name": "scratch"},
        "training": {"epochs": 2, "batch_size": 16, "image_size": 8},
        "export": ["safetensors"],
        "resources": {"threads": 1},
        **more,
    }


@pytest.fixture
def run(tmp_path):
    """Run the command with a spec given as a dict."""

    def make(spec, dataset, *options, out="out", suffix="json"):
        path = tmp_path / f"spec.{suffix}"
        path.write_text(json.dumps(spec) if suffix == "json" else yaml.safe_dump(spec))
        arguments = ["run", str(path), "--dataset", str(dataset), "--out", str(tmp_path / out), *options]
        return CliRunner().invoke(app, arguments)

    return make


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_a_run_writes_only_the_students_files(suffix, run, images, tmp_path):
    outcome = run(document(), images, suffix=suffix)

    assert outcome.exit_code == 0, outcome.output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    files = {"model.safetensors", "config.json", "README.md", "report.json", "predictions.npz", "metrics.jsonl"}
    assert names == files
    assert timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).num_classes == 2


def test_weights_can_be_a_folder(run, images, tmp_path):
    run(document(), images, out="first")
    student = {**document()["student"], "weights": str(tmp_path / "first")}
    teachers = [{"architecture": "vit_tiny_patch16_224", "weights": str(tmp_path / "first")}]

    outcome = run(document(student=student, teachers=teachers, method={"name": "kd"}), images, out="second")

    assert outcome.exit_code == 0, outcome.output
    assert len(json.loads((tmp_path / "second" / "report.json").read_text())["result"]["teachers"]) == 1


def test_an_invalid_spec_is_reported_with_the_field(run, images):
    outcome = run(document(training={"epoch": 3}), images)

    assert outcome.exit_code == 1
    assert "/training/epoch: unknown field. Did you mean epochs" in " ".join(outcome.output.split())


def test_a_missing_dataset_is_reported(run):
    outcome = run(document(), "/nowhere/at/all")

    assert outcome.exit_code == 1
    assert "there is no dataset" in outcome.output


def test_labels_none_ignores_class_folders(run, images):
    outcome = run(document(), images, "--labels", "none")

    assert outcome.exit_code == 1
    assert "it has no labels" in outcome.output


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--splits", "train", "auto, none, or the folders of the splits"),
        ("--splits", "train=nowhere", "/splits/train: the dataset has no folder nowhere"),
        ("--class-from", "grandparent", "'auto', 'first', 'parent'"),
    ],
)
def test_a_wrong_choice_of_folders_is_reported(run, images, option, value, words):
    outcome = run(document(), images, option, value)

    assert outcome.exit_code != 0
    assert words in " ".join(outcome.output.replace("│", " ").split())


def test_a_run_mixes_images_if_configured(run, images, tmp_path):
    training = {**document()["training"], "mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1}
    for out, more in (("plain", {}), ("mixed", {"training": training}), ("repeated", {"training": training})):
        assert run(document(**more), images, out=out).exit_code == 0

    plain, mixed, repeated = (
        (tmp_path / out / "model.safetensors").read_bytes() for out in ("plain", "mixed", "repeated")
    )
    assert mixed == repeated
    assert mixed != plain


def test_an_unreadable_spec_file_is_reported(run, images, tmp_path):
    (tmp_path / "broken.json").write_text("{not json")

    outcome = CliRunner().invoke(
        app, ["run", str(tmp_path / "broken.json"), "--dataset", str(images), "--out", str(tmp_path / "out")]
    )

    assert outcome.exit_code == 1
    assert "cannot be read" in " ".join(outcome.output.split())
    assert not (tmp_path / "out").exists()


def interrupt_after_a_checkpoint(folder, existing):
    """Send SIGINT to this process after the next checkpoint that is not among ``existing``."""

    def interrupt():
        while not [path for path in folder.glob("*") if path.name.isdigit() and path.name not in existing]:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    return thread


def test_ctrl_c_saves_a_checkpoint_and_resume_continues_from_it(run, images, tmp_path):
    endless = document(training={**document()["training"], "epochs": 10_000})
    folder = tmp_path / "out" / ".work" / "run" / "checkpoints" / "distill"

    interrupt_after_a_checkpoint(folder, existing=())
    first = run(endless, images)
    reached = {path.name for path in folder.iterdir()}
    interrupt_after_a_checkpoint(folder, existing=reached)
    second = run(endless, images, "--resume")

    assert (first.exit_code, second.exit_code) == (130, 130)
    assert "with --resume to continue" in " ".join(first.output.split())
    assert re.search(rf"resumed at step {int(max(reached))} of 20000", " ".join(second.output.split()))
    assert max(path.name for path in folder.iterdir()) > max(reached)


def test_resume_with_another_spec_is_rejected(run, images, tmp_path):
    endless = document(training={**document()["training"], "epochs": 10_000})
    interrupt_after_a_checkpoint(tmp_path / "out" / ".work" / "run" / "checkpoints" / "distill", existing=())
    run(endless, images)

    outcome = run(document(), images, "--resume")

    assert outcome.exit_code == 1
    assert "another spec" in outcome.output


def test_a_pool_can_be_a_folder_of_images(run, images, tmp_path):
    pool = tmp_path / "pool"
    write_gray_images(pool, range(0, 240, 10))
    teacher = {**document()["student"], "weights": "train", "training": {"epochs": 1, "batch_size": 16}}
    method = {"name": "attention_probe", "pool": str(pool), "num_select": 10}

    outcome = run(document(method=method, teachers=[teacher]), images)

    assert outcome.exit_code == 0, outcome.output
    assert "10 of" in outcome.output

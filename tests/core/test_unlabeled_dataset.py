"""Jobs with `unlabeled_dataset`: the student also trains on images without labels."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from core import pipeline
from core.data.decoding import decode_on_demand
from core.data.pixels import Pixels
from core.data.stored import UNLABELED, read_dataset_info
from core.errors import InvalidSpec
from core.ingest.dataset import ingest_folder
from core.reporting import Control, Interrupted, Stage, Workspace
from core.resolve import resolver
from core.spec import METHODS, parse_job_spec
from core.spec.examples import example_job
from tests.support.images import store_band_images, write_gray_images
from tests.support.reporter import RecordingReporter

SIZE = 8
NUM_LABELED, NUM_UNLABELED = 30, 80


def vit(width, **more):
    sizes = {"patch_size": 4, "embed_dim": width, "depth": 1, "num_heads": 2}
    return {"architecture": "vit_tiny_patch16_224", "arguments": sizes, **more}


def document(**more):
    steps = {"epochs": 2, "batch_size": 16, "learning_rate": 3e-3}
    return {
        "dataset": "ds_bands",
        "unlabeled_dataset": "ds_more",
        "teachers": [vit(24, weights="train", training=steps)],
        "student": vit(16),
        "method": {"name": "kd"},
        "training": {"image_size": SIZE, "mixup": 0.4, **steps},
        "export": ["safetensors"],
        "resources": {"threads": 1, "accelerator": "cpu"},
        **more,
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A dataset of 30 labeled training images, and one of 80 whose labels are not read."""
    root = tmp_path_factory.mktemp("datasets")
    bands = store_band_images(root / "bands", num_train=NUM_LABELED // 3, num_test=4)
    write_gray_images(root / "images", range(0, 200, 2), SIZE)
    ingest_folder(root / "images", root / "more")
    return {"ds_bands": bands, "ds_more": root / "more"}


@pytest.fixture
def resolve(folders):
    def run(spec):
        infos = {name: read_dataset_info(folder) for name, folder in folders.items()}
        return resolver.resolve(parse_job_spec(spec), infos["ds_bands"], {}, threads=1, datasets=infos)

    return run


@pytest.fixture
def attempt(folders, tmp_path):
    """Run a resolved spec as one attempt of a job. Attempts of one name share a folder."""

    def run(spec, name="job", **options):
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        workspace = Workspace(root / "run", tmp_path / f"cache-{name}", folders["ds_bands"], datasets=folders)
        with RecordingReporter(root, teachers=root / "teachers", **options) as reporter:
            return pipeline.run(spec, workspace, reporter), reporter

    return run


def weights(result):
    return load_file(result.artifacts["model.safetensors"])


def test_the_student_learns_from_all_images_and_teacher_and_baseline_from_the_labeled_ones(resolve, attempt):
    resolution = resolve(document(baseline=True))
    result, reporter = attempt(resolution.spec)
    with pytest.raises(Interrupted):
        attempt(resolution.spec, "interrupted", control=Control.PAUSE, stage=Stage.DISTILL, after=5)
    resumed, _ = attempt(resolution.spec, "interrupted")

    steps_of_all, steps_of_labeled = 2 * 7, 2 * 2  # batches of 16 of 110 and of 30 images, 2 epochs
    assert resolution.estimate["total_steps"] == reporter.latest.total_steps == steps_of_all
    assert len(reporter.series["train/loss"]) == steps_of_all
    assert len(reporter.series["teacher/0/loss"]) == steps_of_labeled
    assert len(reporter.series["baseline/loss"]) == steps_of_all
    report = json.loads(result.artifacts["report.json"].read_text())
    assert report["spec"]["unlabeled_dataset"] == "ds_more"
    assert set(report["digests"]["further_datasets"]) == {"/unlabeled_dataset"}
    assert result.result["baseline"]["gain"] is not None
    first, second = weights(result), weights(resumed)
    assert all(tensor.equal(second[name]) for name, tensor in first.items())


def test_held_out_images_are_labeled_ones_and_other_images_change_the_student(resolve, attempt, folders):
    training = {**document()["training"], "hold_out": 0.2}
    with_more, _ = attempt(resolve(document(training=training, method={"name": "kd", "alpha": 1.0})).spec)
    alone, _ = attempt(resolve(document(training=training, unlabeled_dataset=None)).spec, "alone")
    compression = [{"name": "quantize", "mode": "dynamic"}]
    compressed = resolve(document(compression=compression)).estimate

    report = json.loads(with_more.artifacts["report.json"].read_text())
    assert report["evaluation"]["calibration"]["student"]["scaled"]["num_held_out"] == 0.2 * NUM_LABELED
    assert compressed["compression"][0]["name"] == "quantize"
    assert not weights(with_more)["head.weight"].equal(weights(alone)["head.weight"])


def test_a_chain_reads_the_unlabeled_images_in_each_of_its_distillations(resolve, attempt):
    steps = {"epochs": 1, "batch_size": 16}
    assistant = vit(20, weights="distill", distillation={
        "teachers": document()["teachers"], "method": {"name": "dist"}, "training": steps,
    })  # fmt: skip
    _, reporter = attempt(resolve(document(teachers=[assistant])).spec)

    assert len(reporter.series["teacher/0/distill/loss"]) == 7


@pytest.mark.parametrize(
    ("changes", "pointer", "match"),
    [
        ({"method": {"name": "dkd"}}, "/unlabeled_dataset", "needs the label of every image; use another"),
        ({"method": {"name": "scratch"}, "teachers": []}, "/unlabeled_dataset", "needs the label of every image"),
        ({"unlabeled_dataset": "ds_bands"}, "/unlabeled_dataset", "the job's own dataset"),
        ({"unlabeled_dataset": "ds_none"}, "/unlabeled_dataset", "there is no dataset ds_none"),
        (
            {"method": {"name": "attention_probe", "pool": "ds_more", "num_select": 20}},
            "/unlabeled_dataset",
            "chooses or makes the images",
        ),
    ],
)
def test_a_job_that_cannot_use_the_images_is_refused(resolve, changes, pointer, match):
    with pytest.raises(InvalidSpec, match=match) as caught:
        resolve(document(**changes))

    assert pointer in {error.pointer for error in caught.value.errors}


def test_methods_that_read_labels_in_one_term_only_accept_images_without_labels():
    accepted = {
        name for name in METHODS if name != "auto" and not parse_job_spec(example_job(name)).method.needs_all_labels
    }

    assert {"kd", "dist", "wttm", "manifold", "tinyvit", "logit_standardization", "vitkd", "agglomerate"} <= accepted
    assert accepted.isdisjoint({"scratch", "dkd", "nkd", "ofa", "wsld", "crd", "deit", "mutual"})


def test_concatenated_images_are_those_of_both_sources_in_memory_or_decoded_on_demand(folders):
    first = decode_on_demand(folders["ds_bands"], "train", SIZE, threads=1)
    second = np.asarray(decode_on_demand(folders["ds_more"], "train", SIZE, threads=1))
    labels = torch.arange(NUM_LABELED)
    pixels = Pixels(first, labels, np.arange(NUM_LABELED)).followed_by(
        Pixels(second, torch.full((NUM_UNLABELED,), UNLABELED))
    )
    rows = torch.tensor([NUM_LABELED, 3, NUM_LABELED + 5, 0])

    pixels.prefetch([rows])
    batch = pixels.batch(rows)

    assert len(pixels) == NUM_LABELED + NUM_UNLABELED
    assert pixels.is_decoded_on_demand
    assert pixels.images.shape == (NUM_LABELED + NUM_UNLABELED, 1, SIZE, SIZE)
    assert batch.equal(torch.from_numpy(np.stack([second[0], first[3], second[5], first[0]])))
    assert pixels.labels[rows].tolist() == [UNLABELED, 3, UNLABELED, 0]

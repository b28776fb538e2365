"""Complete jobs of ``agglomerate``: from foundation models and unlabeled images to a backbone."""

import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from core import pipeline
from core.data.stored import read_dataset_info
from core.ingest.dataset import ingest_folder
from core.models.safetensors_header import read_model_info
from core.models.upload import check_upload
from core.reporting import Control, Interrupted, Stage, Workspace
from core.resolve import resolver
from core.spec import parse_job_spec
from tests.support.images import store_band_images, write_gray_images
from tests.support.reporter import RecordingReporter

SIZES = {"embed_dim": 24, "depth": 2, "num_heads": 3}
# Small networks of the families, at sizes other than those at which their grids match the student's 2 × 2 patches.
TEACHERS = {
    "mdl_dinov2": ("vit_small_patch14_reg4_dinov2", {**SIZES, "patch_size": 8, "img_size": 24}),
    "mdl_dinov3": ("vit_small_patch16_dinov3", {**SIZES, "patch_size": 6, "img_size": 18}),
    "mdl_siglip": ("vit_base_patch16_siglip_224", {**SIZES, "patch_size": 4, "img_size": 16}),
}
STUDENT = {
    "architecture": "vit_tiny_patch16_224",
    "arguments": {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2},
}
NUM_STEPS = 4 * 6


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Uploaded backbones of color images by id, with the normalization of their families."""
    root = tmp_path_factory.mktemp("teachers")
    for seed, (name, (architecture, arguments)) in enumerate(TEACHERS.items()):
        torch.manual_seed(seed)
        file = root / f"{name}.safetensors"
        save_file(timm.create_model(architecture, **arguments).state_dict(), file)
        info = check_upload(file, architecture, arguments, normalization=None, classes=None, out_folder=root / name)
        assert (info.num_classes, info.normalization_source) == (0, "architecture")
    return {name: root / name for name in TEACHERS}


@pytest.fixture(scope="module")
def labeled(tmp_path_factory):
    return store_band_images(tmp_path_factory.mktemp("bands"), num_train=30, num_test=10)


@pytest.fixture
def resolve(teachers):
    def make(dataset, names=("mdl_dinov2", "mdl_dinov3"), devices=1, **method):
        document = {
            "dataset": "ds_images",
            "teachers": [{"weights": name} for name in names],
            "student": STUDENT,
            "method": {"name": "agglomerate", "head_width": 32, "statistics_batches": 4, **method},
            "training": {"epochs": 4, "batch_size": 15, "learning_rate": 3e-3, "image_size": 8},
            "export": ["safetensors"],
            "resources": {"accelerator": "cpu", "threads": 1, "devices": devices},
        }
        info = {name: read_model_info(teachers[name]) for name in names}
        return resolver.resolve(parse_job_spec(document), read_dataset_info(dataset), info, threads=1)

    return make


@pytest.fixture
def run(resolve, teachers, tmp_path):
    """Run a job as one attempt; attempts of one name share a folder."""

    def start(dataset, name="job", *, cache="cache", teacher_cache_bytes=10**9, method=None, **options):
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        workspace = Workspace(
            root=root / "run",
            cache=tmp_path / cache,
            dataset=dataset,
            models=teachers,
            teacher_cache_bytes=teacher_cache_bytes,
        )
        with RecordingReporter(root, teachers=root / "teachers", **options) as reporter:
            return pipeline.run(resolve(dataset, **method or {}).spec, workspace, reporter), reporter

    return start


def weights(result):
    return load_file(result.artifacts["model.safetensors"])


def equal(first, second):
    return first.keys() == second.keys() and all(tensor.equal(second[name]) for name, tensor in first.items())


def test_teachers_run_at_the_size_at_which_their_grid_is_the_students(resolve, labeled):
    resolution = resolve(labeled, names=tuple(TEACHERS))

    assert [teacher.arguments["img_size"] for teacher in resolution.spec.teachers] == [16, 12, 8]
    assert [teacher["image_size"] for teacher in resolution.estimate["teachers"]] == [16, 12, 8]


def test_the_memory_of_the_heads_is_estimated(resolve, labeled):
    small, large = (resolve(labeled, head_width=width).estimate["memory_bytes"] for width in (32, 4096))

    # Two heads for each of two teachers, with one residual block of 4096 × 4096: 16 bytes a parameter.
    assert large - small > 4 * 4096**2 * 16


def test_a_backbone_is_exported_and_evaluated_by_its_embeddings(run, labeled):
    result, reporter = run(labeled)

    folder = result.artifacts["config.json"].parent
    opened = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert opened(torch.zeros(2, 1, 8, 8)).shape == (2, 16)
    assert not any("head" in name for name in weights(result))
    assert {len(reporter.series[f"train/{kind}_{i}"]) for kind in ("summary", "patches") for i in (0, 1)} == {NUM_STEPS}
    assert reporter.series["train/loss"][-1][1] < reporter.series["train/loss"][0][1]
    report = json.loads(result.artifacts["report.json"].read_text())
    student = report["details"]["student"]
    assert report["kind"] == "backbone"
    assert reporter.series["eval/knn_top1"] == [(NUM_STEPS, result.result["student"]["top1"])]
    assert reporter.series["eval/linear_probe_top1"] == [(NUM_STEPS, student["linear_probe_top1"])]
    assert student["linear_probe"]["num_held_out"] == 9
    cosines = report["details"]["method"]
    assert set(cosines) == {f"teacher/{i}/{kind}_cosine" for kind in ("summary", "patches") for i in (0, 1)}
    assert reporter.series["teacher/0/summary_cosine"] == [(NUM_STEPS, cosines["teacher/0/summary_cosine"])]
    assert cosines["teacher/0/summary_cosine"] > 0.5
    assert "backbone without a classifier" in result.artifacts["README.md"].read_text()


def test_unlabeled_images_are_reported_by_their_cosines(run, tmp_path):
    write_gray_images(tmp_path / "images" / "train", range(20, 240, 4))
    write_gray_images(tmp_path / "images" / "test", range(22, 240, 20))
    ingest_folder(tmp_path / "images", tmp_path / "stored")

    result, reporter = run(tmp_path / "stored")

    report = json.loads(result.artifacts["report.json"].read_text())
    assert result.result["student"]["top1"] is None
    assert -1 <= report["details"]["method"]["teacher/1/patches_cosine"] <= 1
    assert {name for name in reporter.series if "top1" in name} == set()


@pytest.mark.parametrize("teacher_cache_bytes", [10**9, 0])
def test_an_interrupted_job_has_the_bits_of_an_undisturbed_one(run, labeled, teacher_cache_bytes):
    uninterrupted, _ = run(labeled, "uninterrupted")

    for stage, after in ((Stage.DISTILL, 1), (Stage.DISTILL, 11)):
        with pytest.raises(Interrupted):
            run(
                labeled,
                "interrupted",
                cache="other",
                teacher_cache_bytes=teacher_cache_bytes,
                control=Control.PAUSE,
                stage=stage,
                after=after,
            )
    last, _ = run(labeled, "interrupted", cache="other", teacher_cache_bytes=teacher_cache_bytes)

    assert equal(weights(last), weights(uninterrupted))


def test_a_stop_before_the_first_step_exports_the_untrained_student(run, labeled):
    result, reporter = run(labeled, control=Control.STOP, stage=Stage.DISTILL, after=2)

    assert "training.stopped" in reporter.event_types
    assert "train/loss" not in reporter.series
    assert result.result["student"]["top1"] is not None


def test_all_kinds_of_normalization_and_a_ladder_train(run, labeled):
    channel, _ = run(labeled, "channel", method={"normalization": "channel", "names": ("mdl_siglip",)})
    ladder, _ = run(labeled, "ladder", method={"normalization": "none", "ladder": [0], "names": ("mdl_siglip",)})

    assert not equal(weights(channel), weights(ladder))


def test_two_devices_find_the_same_statistics_and_losses(run, labeled):
    method = {"drop_probability": 0.0}
    _, alone = run(labeled, "alone", method=method)
    _, together = run(labeled, "together", cache="other", method={**method, "devices": 2})

    losses = [[loss for _, loss in reporter.series["train/loss"]] for reporter in (alone, together)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)

"""Complete runs of tiny jobs: results and files, and bit-identical students after interruptions."""

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from core import pipeline
from core.data.stored import read_dataset_info
from core.errors import InvalidSpec, NonFiniteLoss, SpecCannotRun
from core.export.onnx_file import open_session
from core.export.onnx_graph import CONVERTERS
from core.ingest.dataset import ingest_folder
from core.local_reporter import FolderReporter
from core.models.build import build_student
from core.models.plan import plan_student, plan_teacher
from core.models.safetensors_header import read_model_info
from core.models.weights import save_folder
from core.reporting import Control, Interrupted, Stage, Workspace
from core.resolve import resolver
from core.spec import StudentSpec, parse_job_spec
from core.spec.info import InputInfo
from core.teacher import job_evaluator, output_cache
from core.teacher.frozen import FrozenTeacher
from core.train import export_preflight
from tests.support.images import store_band_images, store_stripe_images, write_gray_images
from tests.support.reporter import RecordingReporter

SIZE = 8


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """90 training and 30 test images of three classes, each marked by a bright band."""
    return store_band_images(tmp_path_factory.mktemp("bands"), num_train=30, num_test=10)


def vit(width=16, **more):
    return {
        "architecture": "vit_tiny_patch16_224",
        "arguments": {"patch_size": 4, "embed_dim": width, "depth": 1, "num_heads": 2},
        **more,
    }


def document(**more):
    return {
        "dataset": "ds_bands",
        "teachers": [
            vit(24, weights="train", training={"epochs": 3, "batch_size": 16, "learning_rate": 3e-3, "drop_path": 0.1})
        ],
        "student": vit(),
        "method": {"name": "kd"},
        "training": {"epochs": 4, "batch_size": 16, "learning_rate": 3e-3, "image_size": SIZE, "drop_path": 0.1},
        "export": ["safetensors"],
        "resources": {"threads": 1},
        **more,
    }


def resolution(dataset, models=None, **more):
    model_info = {name: read_model_info(folder) for name, folder in (models or {}).items()}
    return resolver.resolve(parse_job_spec(document(**more)), read_dataset_info(dataset), model_info, threads=1)


def resolved(dataset, models=None, **more):
    return resolution(dataset, models, **more).spec


@pytest.fixture
def attempt(dataset, tmp_path):
    """Run a spec as one attempt of a job. Attempts of one name share a folder; all share ``teachers``."""

    def make(
        spec,
        name="job",
        *,
        models=None,
        teachers=None,
        cache="cache",
        teacher_cache_bytes=10**9,
        pixel_cache_bytes=10**9,
        **options,
    ):
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        workspace = Workspace(
            root=root / "run",
            cache=tmp_path / cache,
            dataset=dataset,
            models=models or {},
            teacher_cache_bytes=teacher_cache_bytes,
            pixel_cache_bytes=pixel_cache_bytes,
        )
        with RecordingReporter(root, teachers=teachers or root / "teachers", **options) as reporter:
            return pipeline.run(spec, workspace, reporter), reporter

    return make


def digest(result):
    return hashlib.sha256(result.artifacts["model.safetensors"].read_bytes()).hexdigest()


def test_a_job_has_the_contracts_result_and_files_that_timm_loads(attempt, dataset):
    result, reporter = attempt(
        resolved(dataset, export=["safetensors", "onnx"], training={**document()["training"], "epochs": 15})
    )

    files = {"model.safetensors", "config.json", "model.onnx", "README.md", "report.json", "predictions.npz"}
    assert set(result.artifacts) == files
    assert set(result.result) == {"student", "teachers", "compressed", "agreement", "baseline"}
    figures = {"top1", "top5", "parameters", "flops", "size_bytes", "latency_ms"}
    assert figures <= set(result.result["student"])
    assert [figures <= set(teacher) for teacher in result.result["teachers"]] == [True]
    assert result.result["student"]["top1"] > 0.5
    assert reporter.stages == ["prepare", "teacher", "distill", "evaluate", "export"]
    assert reporter.event_types == ["preflight.passed", "teacher.trained", "teacher_cache.summary"]
    assert reporter.fractions == sorted(reporter.fractions)
    assert reporter.fractions[-1] == 1.0
    assert {len(reporter.series["train/loss"]), len(reporter.series["train/distillation"])} == {90}
    assert reporter.series["teacher/0/top1"][0][0] == 0
    assert 1 <= len(reporter.series["eval/top1"]) <= 20
    folder = result.artifacts["config.json"].parent
    opened = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert opened(torch.zeros(2, 1, SIZE, SIZE)).shape == (2, 3)
    assert sum(p.numel() for p in opened.parameters()) == result.result["student"]["parameters"]
    report = json.loads(result.artifacts["report.json"].read_text())
    assert set(report["stages"]) == {"prepare", "teacher", "distill", "evaluate"}


def test_threads_and_determinism_are_restored_after_a_run(attempt, dataset):
    before = torch.get_num_threads()

    attempt(resolved(dataset, method={"name": "scratch"}, teachers=[], resources={"threads": before + 1}))

    assert torch.get_num_threads() == before
    assert not torch.are_deterministic_algorithms_enabled()


NEW_PROCESS = """
import json, sys
from pathlib import Path
from core import pipeline
from core.local_reporter import FolderReporter
from core.reporting import Workspace
from core.spec import parse_job_spec
root, cache, dataset, spec = (Path(argument) for argument in sys.argv[1:])
with FolderReporter(root, teachers=root / "teachers") as reporter:
    workspace = Workspace(root / "run", cache, dataset)
    result = pipeline.run(parse_job_spec(json.loads(spec.read_text())), workspace, reporter)
print(result.artifacts["model.safetensors"])
"""


def interrupt(attempt, spec, *requests, **options):
    """Run attempts of one job, each interrupted by a (request, stage, number of control calls)."""
    for request, stage, after in requests:
        with pytest.raises(Interrupted) as interruption:
            attempt(spec, "interrupted", control=request, stage=stage, after=after, **options)
        assert interruption.value.control is request


def test_an_interrupted_job_that_ends_in_a_new_process_gives_the_same_bits(attempt, dataset, tmp_path):
    training = {**document()["training"], "ema": 0.99, "augmentation": "strong", "views": 3}
    spec = resolved(dataset, training=training)
    uninterrupted, _ = attempt(spec, "uninterrupted")

    interrupt(
        attempt,
        spec,
        (Control.PAUSE, Stage.PREPARE, 1),
        (Control.DRAIN, Stage.TEACHER, 8),
        (Control.PAUSE, Stage.TEACHER, 5),
        (Control.DRAIN, Stage.DISTILL, 10),
    )
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    arguments = [str(tmp_path / "interrupted"), str(tmp_path / "cache"), str(dataset), str(tmp_path / "spec.json")]
    completed = subprocess.run(
        [sys.executable, "-c", NEW_PROCESS, *arguments], capture_output=True, text=True, check=False
    )

    assert completed.returncode == 0, completed.stderr
    assert hashlib.sha256(Path(completed.stdout.strip()).read_bytes()).hexdigest() == digest(uninterrupted)


def test_a_swin_with_shared_blocks_resumes_with_the_same_bits_and_loads_in_timm_and_onnx(attempt, dataset):
    def swin(width, **more):
        sizes = {"patch_size": 2, "window_size": 2, "embed_dim": width, "depths": [2, 2], "num_heads": [2, 2]}
        return {"architecture": "swin_tiny_patch4_window7_224", "arguments": sizes, **more}

    spec = resolved(
        dataset,
        teachers=[swin(12, weights="train", training={"epochs": 1, "batch_size": 16})],
        student=swin(8),
        method={"name": "minivit"},
        training={**document()["training"], "epochs": 2},
        export=["safetensors", "onnx"],
    )
    uninterrupted, reporter = attempt(spec.model_copy(update={"export": ("safetensors",)}), "uninterrupted")
    interrupt(attempt, spec, (Control.DRAIN, Stage.DISTILL, 6))
    again, _ = attempt(spec, "interrupted")

    opened = timm.create_model(f"local-dir:{again.artifacts['config.json'].parent}", pretrained=True).eval()
    images = torch.randn(5, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    (logits,) = open_session(again.artifacts["model.onnx"]).run(["logits"], {"images": images.numpy()})

    assert digest(again) == digest(uninterrupted)
    assert {"train/distillation", "train/relation", "train/hidden"} <= reporter.series.keys()
    assert sum(p.numel() for p in opened.parameters()) == again.result["student"]["parameters"]
    assert [len(stage.blocks) for stage in opened.layers] == [1, 1]
    torch.testing.assert_close(opened(images), torch.from_numpy(logits), rtol=1e-4, atol=1e-5)


def test_a_job_cancelled_and_retried_and_paused_after_training_gives_the_same_bits(attempt, dataset, tmp_path):
    spec = resolved(dataset)
    uninterrupted, _ = attempt(spec, "uninterrupted")

    interrupt(attempt, spec, (Control.CANCEL, Stage.DISTILL, 12), (Control.PAUSE, Stage.EVALUATE, 1))
    steps = sorted(path.name for path in (tmp_path / "interrupted" / "checkpoints" / "distill").iterdir())
    last, reporter = attempt(spec, "interrupted")

    assert steps[-1] == "000000024"
    assert reporter.event_types == ["teacher.reused", "training.resumed"]  # no second preflight
    assert digest(last) == digest(uninterrupted)


def test_a_teacher_is_reused_by_its_fingerprint_and_gives_the_same_student(attempt, dataset, tmp_path):
    shared = tmp_path / "teachers"
    first, first_reporter = attempt(resolved(dataset), "first", teachers=shared)
    second, second_reporter = attempt(resolved(dataset, name="another job"), "second", teachers=shared)

    assert "teacher.trained" in first_reporter.event_types
    assert second_reporter.event_types == ["teacher.reused", "preflight.passed", "teacher_cache.summary"]
    assert "teacher" not in second_reporter.stages
    assert digest(second) == digest(first)


# --- teacher cache ------------------------------------------------------------------------------


def fixed_views(dataset, **more):
    """Resolve a spec with an untrained teacher and two mixed views of each image."""
    training = {**document()["training"], "views": 2, "augmentation": "strong", "mixup": 0.5}
    return resolved(dataset, teachers=[vit(24, weights="random")], training=training, **more)


@pytest.fixture
def forward_batch_sizes(monkeypatch):
    """Record the batch size of each forward pass of a teacher."""
    sizes = []
    call = FrozenTeacher.__call__

    def counting(self, images):
        sizes.append(len(images))
        return call(self, images)

    monkeypatch.setattr(FrozenTeacher, "__call__", counting)
    return sizes


TAPPING = {"name": "fitnets", "logits": "none"}  # features, no logits
each_kind = pytest.mark.parametrize("method", [{"name": "kd"}, TAPPING], ids=["logits", "features"])


@each_kind
def test_cached_teacher_outputs_are_not_computed_again(attempt, dataset, forward_batch_sizes, method):
    filling, reporter = attempt(fixed_views(dataset, method=method), "first")
    block_sizes = [size for size in forward_batch_sizes if size != 15]  # the preflight runs on batches of 15
    forward_batch_sizes.clear()
    reading, second_reporter = attempt(fixed_views(dataset, name="another job", method=method), "second")

    assert block_sizes == [64, 26] * 2
    assert forward_batch_sizes == []  # an equivalent job has no preflight
    assert digest(reading) == digest(filling)
    first, second = reporter.event_data("teacher_cache.summary"), second_reporter.event_data("teacher_cache.summary")
    assert (first["hits"], first["misses"], first["saved_seconds"] > 0) == (2, 2, True)
    assert (second["hits"], second["misses"], second["seconds"]) == (4, 0, 0.0)
    report = json.loads(reading.artifacts["report.json"].read_text())
    assert report["details"]["teacher_cache"] == second


def test_a_teacher_cache_that_is_too_small_gives_the_same_bits(attempt, dataset):
    spec = fixed_views(dataset)
    stored, _ = attempt(spec, "rich")
    not_stored, reporter = attempt(spec, "poor", cache="other", teacher_cache_bytes=1_000)

    assert reporter.event_data("teacher_cache.disabled") == {
        "reason": f"it needs {2 * 90 * 3 * 2:,} bytes, and its limit is 1,000 bytes"
    }
    assert reporter.event_data("teacher_cache.summary")["misses"] == 4
    assert digest(not_stored) == digest(stored)


def test_a_pixel_cache_that_is_too_small_gives_the_same_bits(attempt, dataset, tmp_path):
    mapped, _ = attempt(fixed_views(dataset), "rich")
    on_demand, _ = attempt(fixed_views(dataset), "poor", cache="other", pixel_cache_bytes=0)

    assert not (tmp_path / "other" / "pixels").exists()
    assert digest(on_demand) == digest(mapped)


def test_memory_mapped_rows_give_the_same_bits_as_rows_in_memory(attempt, dataset, monkeypatch):
    spec = fixed_views(dataset, method=TAPPING)
    in_memory, _ = attempt(spec, "memory")
    monkeypatch.setattr(output_cache, "MAX_IN_MEMORY_BYTES", 0)
    reading, reporter = attempt(spec, "reading")
    monkeypatch.setattr(output_cache, "CPU_SHARD_ROWS", 64)
    filling, _ = attempt(spec, "filling", cache="other")
    poor, _ = attempt(spec, "poor", cache="another", teacher_cache_bytes=0)

    assert reporter.event_data("teacher_cache.summary")["misses"] == 0
    assert {digest(reading), digest(filling), digest(poor)} == {digest(in_memory)}


def test_a_job_interrupted_while_teacher_outputs_are_computed_gives_the_same_bits(
    attempt, dataset, tmp_path, monkeypatch
):
    uninterrupted, _ = attempt(fixed_views(dataset), "uninterrupted", cache="other")
    monkeypatch.setattr(output_cache, "CPU_SHARD_ROWS", 64)
    shards = []
    for after in (3, 4, 9):
        interrupt(attempt, fixed_views(dataset), (Control.DRAIN, Stage.DISTILL, after))
        shards.append(len(list((tmp_path / "cache" / "teacher_outputs").rglob("*.shard"))))
    last, _ = attempt(fixed_views(dataset), "interrupted")

    assert 0 <= shards[0] < shards[1] < 4
    assert digest(last) == digest(uninterrupted)


KILLED = """
import os, signal
from core.teacher.shard_store import Entry
write, written = Entry.write, []
def die_at_second_shard(self, index, shard):
    written.append(index)
    if len(written) == 2:
        (self._folder / f".{index:06d}.shard.part").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, index, shard)
Entry.write = die_at_second_shard
"""


def test_a_job_killed_while_it_caches_teacher_outputs_gives_the_same_bits(attempt, dataset, tmp_path):
    spec = fixed_views(dataset, method=TAPPING)
    uninterrupted, _ = attempt(spec, "uninterrupted", cache="other")
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    arguments = [str(tmp_path / "killed"), str(tmp_path / "cache"), str(dataset), str(tmp_path / "spec.json")]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED + NEW_PROCESS, *arguments], capture_output=True, text=True, check=False
    )

    last, reporter = attempt(spec, "killed")

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "training.resumed" in reporter.event_types or reporter.event_data("teacher_cache.summary")["hits"] > 2
    assert digest(last) == digest(uninterrupted)


def test_a_method_that_masks_the_teachers_images_runs_the_teacher_on_every_batch(attempt, dataset, forward_batch_sizes):
    _, reporter = attempt(fixed_views(dataset, method={"name": "masked_teacher"}))

    assert "teacher_cache.summary" not in reporter.event_types
    assert set(forward_batch_sizes) == {15}


@each_kind
def test_a_job_caches_the_estimated_number_of_bytes(attempt, dataset, tmp_path, method):
    resolved_job = resolution(dataset, teachers=[vit(24, weights="random")], method=method)
    _, reporter = attempt(resolved_job.spec)
    shards = list((tmp_path / "cache" / "teacher_outputs").rglob("*.shard"))
    estimate, cached = resolved_job.estimate["teacher_cache"], reporter.event_data("teacher_cache.summary")

    assert estimate["bytes"] == cached["bytes"]
    assert 0 < sum(file.stat().st_size for file in shards) - estimate["bytes"] <= 192 * len(shards)
    assert (estimate["cache_key"], estimate["views"]) == (cached["cache_key"], cached["views"])


def test_a_teacher_is_evaluated_once_for_all_jobs(attempt, dataset, monkeypatch):
    first, reporter = attempt(fixed_views(dataset), "first")
    measurements, forward_passes = [], []
    measure, logits = job_evaluator.measure_model, FrozenTeacher.logits
    monkeypatch.setattr(
        job_evaluator, "measure_model", lambda *args, **more: measurements.append(1) or measure(*args, **more)
    )
    monkeypatch.setattr(FrozenTeacher, "logits", lambda self, images: forward_passes.append(1) or logits(self, images))
    second, second_reporter = attempt(fixed_views(dataset, method={"name": "dkd"}), "second")

    assert (measurements, forward_passes) == ([], [])
    assert second.result["teachers"] == first.result["teachers"]
    assert second_reporter.series["teacher/0/top1"] == reporter.series["teacher/0/top1"]
    reports = [json.loads(result.artifacts["report.json"].read_text()) for result in (first, second)]
    before, after = (report["details"]["teachers"][0]["evaluation"] for report in reports)
    assert (before["hit"], before["saved_seconds"]) == (False, 0.0)
    assert (after["hit"], after["saved_seconds"] > 0) == (True, True)


def test_no_teacher_outputs_are_computed_for_views_of_a_stage_without_teachers(attempt, dataset, forward_batch_sizes):
    training = {**document()["training"], "views": None}
    method = {"name": "dearkd", "first_stage": 0.5}
    teacher = {"architecture": "resnet10t", "weights": "random"}
    _, reporter = attempt(resolved(dataset, teachers=[teacher], training=training, method=method))

    assert (
        reporter.event_data("teacher_cache.summary")["misses"]
        == reporter.event_data("teacher_cache.summary")["views"]
        == 2
    )
    assert [size for size in forward_batch_sizes if size != 15] == [64, 26] * 2


def test_a_stopped_job_is_evaluated_and_exported(attempt, dataset, tmp_path):
    result, reporter = attempt(resolved(dataset), control=Control.STOP, stage=Stage.DISTILL, after=9)

    assert reporter.stages[-2:] == ["evaluate", "export"]
    assert "training.stopped" in reporter.event_types
    assert 1 <= reporter.latest.step < reporter.latest.total_steps == 24
    assert reporter.latest.fraction == 1.0
    assert result.result["student"]["top1"] is not None


def test_a_stop_during_teacher_training_saves_no_teacher(attempt, dataset, tmp_path):
    result, reporter = attempt(resolved(dataset), control=Control.STOP, stage=Stage.TEACHER, after=4)

    assert "teacher.trained" not in reporter.event_types
    assert not (tmp_path / "job" / "teachers").exists()
    assert len(result.result["teachers"]) == 1


def test_deit_exports_timms_distilled_vit_and_differs_from_kd(attempt, dataset, tmp_path):
    shared = tmp_path / "teachers"
    kd, _ = attempt(resolved(dataset), "kd", teachers=shared)
    deit, reporter = attempt(resolved(dataset, method={"name": "deit"}), "deit", teachers=shared)

    opened = timm.create_model(f"local-dir:{deit.artifacts['config.json'].parent}", pretrained=True)
    weights = load_file(deit.artifacts["model.safetensors"])
    assert type(opened).__name__ == "VisionTransformerDistilled"
    assert not weights["head.weight"].equal(weights["head_dist.weight"])
    assert not weights["head.weight"].equal(load_file(kd.artifacts["model.safetensors"])["head.weight"])
    assert len(reporter.series["train/distillation"]) == 24
    assert deit.result["student"]["parameters"] > kd.result["student"]["parameters"]


def test_both_heads_of_a_deit_student_learn(attempt, dataset):
    training = {**document()["training"], "epochs": 15, "learning_rate": 1e-2}

    deit, reporter = attempt(resolved(dataset, method={"name": "deit"}, training=training))

    label, distillation = (reporter.series[f"train/{name}"] for name in ("label", "distillation"))
    assert label[-1][1] < 0.7 * label[0][1]
    assert distillation[-1][1] < 0.7 * distillation[0][1]
    assert deit.result["student"]["top1"] > 0.6


def test_the_seed_determines_the_student(attempt, dataset):
    def student(name, seed):
        spec = resolved(
            dataset, method={"name": "scratch"}, teachers=[], training={**document()["training"], "seed": seed}
        )
        return digest(attempt(spec, name)[0])

    assert student("a", 0) == student("b", 0) != student("c", 1)


def test_the_moving_average_is_exported(attempt, dataset):
    def weights(name, ema):
        spec = resolved(
            dataset, method={"name": "scratch"}, teachers=[], training={**document()["training"], "ema": ema}
        )
        return load_file(attempt(spec, name)[0].artifacts["model.safetensors"])

    assert not weights("average", 0.9)["head.weight"].equal(weights("plain", None)["head.weight"])


def test_a_student_of_an_earlier_job_can_be_teacher_and_initial_weights(attempt, dataset):
    first, _ = attempt(resolved(dataset, method={"name": "scratch"}, teachers=[]), "first")
    models = {"job_first": first.artifacts["config.json"].parent}
    spec = resolved(
        dataset, models, teachers=[vit(weights="job_first")], student=vit(weights="job_first"), method={"name": "kd"}
    )

    second, reporter = attempt(spec, "second", models=models)

    assert "teacher" not in reporter.stages
    assert second.result["teachers"][0]["top1"] == first.result["student"]["top1"]
    assert (
        reporter.series["train/distillation"][0][1] < 0.1
    )  # the student starts as its own teacher, except for drop-path


def test_non_finite_teacher_weights_fail_before_any_step(attempt, dataset, tmp_path):
    first, _ = attempt(resolved(dataset, method={"name": "scratch"}, teachers=[]), "first")
    folder = first.artifacts["config.json"].parent
    weights = load_file(folder / "model.safetensors")
    save_file({n: torch.full_like(t, float("nan")) for n, t in weights.items()}, folder / "model.safetensors")
    models = {"mdl_bad": folder}
    spec = resolved(dataset, models, teachers=[vit(weights="mdl_bad")])

    with pytest.raises(NonFiniteLoss, match="distillation"):
        attempt(spec, "second", models=models)

    assert not (tmp_path / "second" / "checkpoints" / "distill").exists()


def test_weights_are_retained_every_n_epochs(attempt, dataset, tmp_path):
    training = {**document()["training"], "keep_weights_every_epochs": 2}

    attempt(resolved(dataset, method={"name": "scratch"}, teachers=[], training=training))

    names = sorted(path.name for path in (tmp_path / "job" / "weights").iterdir())
    assert names == ["distill-epoch-00002.safetensors", "distill-epoch-00004.safetensors"]


def test_a_dataset_without_labels_is_rejected(attempt, dataset, tmp_path):
    spec = resolved(dataset, method={"name": "scratch"}, teachers=[])
    write_gray_images(tmp_path / "images", range(10))
    ingest_folder(tmp_path / "images", tmp_path / "unlabeled")
    (tmp_path / "run").mkdir()

    with FolderReporter(tmp_path / "run", teachers=tmp_path / "teachers") as reporter:
        workspace = Workspace(tmp_path / "run", tmp_path / "cache", tmp_path / "unlabeled")
        with pytest.raises(SpecCannotRun, match="labels"):
            pipeline.run(spec, workspace, reporter)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """100 images without labels, 80 of them in the training split."""
    root = tmp_path_factory.mktemp("pool")
    generator = np.random.default_rng(7)
    (root / "images").mkdir()
    for index in range(100):
        Image.fromarray(generator.integers(0, 256, (SIZE, SIZE), dtype=np.uint8)).save(root / "images" / f"{index}.png")
    ingest_folder(root / "images", root / "stored")
    return root / "stored"


def test_a_student_trained_on_a_pool_has_the_same_bits_after_interruptions(dataset, pool, tmp_path):
    method = {"name": "attention_probe", "pool": "ds_pool", "num_select": 30, "balanced": True}
    training = {**document()["training"], "mixup": 0.5}
    resolution = resolver.resolve(
        parse_job_spec(document(method=method, training=training)),
        read_dataset_info(dataset),
        {},
        threads=1,
        datasets={"ds_pool": read_dataset_info(pool)},
    )

    def run(name, cache, **options):
        (tmp_path / name).mkdir(exist_ok=True)
        root = tmp_path / name
        workspace = Workspace(root / "run", tmp_path / cache, dataset, datasets={"ds_pool": pool})
        with RecordingReporter(root, teachers=root / "teachers", **options) as reporter:
            return pipeline.run(resolution.spec, workspace, reporter), reporter

    uninterrupted, reporter = run("uninterrupted", "cache-1")
    with pytest.raises(Interrupted):
        run("interrupted", "cache-2", control=Control.DRAIN, stage=Stage.DISTILL, after=2)
    with pytest.raises(Interrupted):
        run("interrupted", "cache-2", control=Control.PAUSE, stage=Stage.DISTILL, after=9)
    last, second_reporter = run("interrupted", "cache-2")

    assert reporter.latest.total_steps == resolution.estimate["total_steps"] == 4 * 2
    assert reporter.fractions[-1] == 1.0
    assert [event for event in reporter.event_types if event.startswith("pool")] == ["pool.chosen"]
    assert "training.resumed" in second_reporter.event_types
    assert len(reporter.series["train/probe"]) == 8
    assert digest(last) == digest(uninterrupted)


def test_a_pruned_student_is_small_and_has_the_same_bits_after_an_interruption(attempt, dataset):
    first, _ = attempt(resolved(dataset, method={"name": "scratch"}, teachers=[]), "first")
    models = {"job_first": first.artifacts["config.json"].parent}
    spec = resolved(
        dataset, models, teachers=[], student=vit(weights="job_first"), method={"name": "uvc", "budget": 0.6}
    )

    uninterrupted, _ = attempt(spec, "uninterrupted", models=models)
    with pytest.raises(Interrupted):
        attempt(spec, "interrupted", models=models, control=Control.PAUSE, stage=Stage.DISTILL, after=7)
    last, _ = attempt(spec, "interrupted", models=models)

    assert digest(last) == digest(uninterrupted)
    assert uninterrupted.result["student"]["flops"] <= 0.6 * first.result["student"]["flops"]
    assert uninterrupted.result["student"]["parameters"] < first.result["student"]["parameters"]
    opened = timm.create_model(f"local-dir:{uninterrupted.artifacts['config.json'].parent}", pretrained=True)
    assert sum(p.numel() for p in opened.parameters()) == uninterrupted.result["student"]["parameters"]


def test_mutual_learning_exports_the_better_student_with_the_same_bits_after_interruptions(attempt, dataset):
    peer = {"architecture": "vit_tiny_patch16_224", "arguments": {**vit(24)["arguments"], "depth": 2}}
    training = {**document()["training"], "epochs": 8, "batch_size": 9, "learning_rate": 1e-2}
    weak = {**vit(), "arguments": {"patch_size": 8, "embed_dim": 2, "depth": 1, "num_heads": 1}}
    spec = resolved(
        dataset, method={"name": "mutual", "peer": peer, "hold_out": 0.1}, teachers=[], student=weak, training=training
    )

    uninterrupted, reporter = attempt(spec, "uninterrupted")
    interrupt(attempt, spec, (Control.PAUSE, Stage.DISTILL, 20), (Control.DRAIN, Stage.EVALUATE, 0))
    last, _ = attempt(spec, "interrupted")

    assert digest(last) == digest(uninterrupted)
    weights = load_file(uninterrupted.artifacts["model.safetensors"])
    assert weights["head.weight"].shape == (3, 24)
    assert reporter.latest.total_steps == 8 * 9  # 81 of 90 images in batches of 9; the others are held out


def test_self_distillation_has_the_same_bits_after_an_interruption(attempt, dataset):
    spec = resolved(dataset, method={"name": "self_distillation", "variant": "ema_teacher"}, teachers=[])

    uninterrupted, reporter = attempt(spec, "uninterrupted")
    interrupt(attempt, spec, (Control.PAUSE, Stage.DISTILL, 7))
    last, _ = attempt(spec, "interrupted")

    assert digest(last) == digest(uninterrupted)
    assert len(reporter.series["train/distillation"]) == 24
    assert timm.create_model(f"local-dir:{uninterrupted.artifacts['config.json'].parent}", pretrained=True)


FOUNDATION = {"architecture": "vit_tiny_patch16_224", "weights": "mdl_foundation"}


@pytest.fixture
def foundation(tmp_path):
    """Teacher of 7 classes of color images, 16 × 16, unlike any dataset of these tests."""
    torch.manual_seed(0)
    inputs = InputInfo(num_classes=7, channels=3, image_size=16)
    spec = StudentSpec.model_validate(vit(24))
    built = build_student(plan_student(spec, inputs, image_size=16))
    save_folder(
        built.module,
        tmp_path / "foundation",
        architecture=built.architecture,
        arguments=built.arguments,
        preprocessing=built.preprocessing,
    )
    return tmp_path / "foundation"


@pytest.fixture
def backbone(foundation, tmp_path):
    """Run a job of a method without a classifier on a dataset, by default of ``feature``."""

    def run(folder, name="job", *, changes=None, **options):
        models = {"mdl_foundation": foundation}
        fields = document(method={"name": "feature"}, teachers=[FOUNDATION], export=["safetensors", "onnx"])
        fields |= changes or {}
        model_info = {"mdl_foundation": read_model_info(foundation)}
        resolution = resolver.resolve(parse_job_spec(fields), read_dataset_info(folder), model_info, threads=1)
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        workspace = Workspace(root=root / "run", cache=tmp_path / "cache", dataset=folder, models=models)
        with RecordingReporter(root, teachers=root / "teachers", **options) as reporter:
            return pipeline.run(resolution.spec, workspace, reporter), reporter

    return run


def test_a_given_teacher_gets_a_new_classifier_is_fine_tuned_and_reused(attempt, dataset, foundation, tmp_path):
    models = {"mdl_foundation": foundation}
    teacher = {**FOUNDATION, "training": {"epochs": 3, "batch_size": 16, "learning_rate": 3e-3}}
    spec = resolved(dataset, models, teachers=[teacher])
    with pytest.raises(InvalidSpec, match=r"7 classes and the dataset has \d.* give it a training"):
        resolved(dataset, models, teachers=[FOUNDATION])

    undisturbed, first = attempt(spec, "undisturbed", models=models)
    _, later = attempt(spec, "later", models=models, teachers=tmp_path / "undisturbed" / "teachers")
    interrupt(attempt, spec, (Control.PAUSE, Stage.TEACHER, 4), models=models)
    resumed, _ = attempt(spec, "interrupted", models=models)

    assert spec.teachers[0].training.image_size == 16  # the size of its weights, not the student's
    losses = [value for _, value in first.series["teacher/0/loss"]]
    assert losses[-1] < losses[0]
    assert first.event_data("teacher.trained")["teacher"] == 0
    assert "teacher" not in later.stages
    assert later.event_data("teacher.reused")["recipe"] == first.event_data("teacher.trained")["recipe"]
    assert digest(resumed) == digest(undisturbed)


def test_a_fine_tuned_teacher_starts_from_its_weights(dataset, foundation):
    models = {"mdl_foundation": foundation}
    spec = resolved(dataset, models, teachers=[{**FOUNDATION, "training": {"epochs": 1}}])
    inputs = read_dataset_info(dataset).input_info()

    plan = plan_teacher(spec.teachers[0], inputs, models={"mdl_foundation": read_model_info(foundation)})
    built = build_student(plan, folders=models)

    given = load_file(foundation / "model.safetensors")
    own = built.module.state_dict()
    assert built.num_classes == inputs.num_classes != 7
    assert plan.preprocessing.image_size == 16
    assert torch.equal(own["blocks.0.attn.qkv.weight"], given["blocks.0.attn.qkv.weight"])
    assert own["head.weight"].shape != given["head.weight"].shape


def test_a_backbone_learns_from_unlabeled_images(backbone, pool):
    result, reporter = backbone(pool)

    folder = result.artifacts["config.json"].parent
    opened = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert opened(torch.zeros(2, 1, SIZE, SIZE)).shape == (2, 16)
    assert result.result["student"]["top1"] is None
    assert [teacher["top1"] for teacher in result.result["teachers"]] == [None]
    assert result.result["agreement"] is None
    assert {name for name in reporter.series if "top1" in name} == set()
    assert len(reporter.series["train/embedding"]) == len(reporter.series["train/patches"]) == 4 * 5
    assert reporter.series["train/loss"][-1][1] < reporter.series["train/loss"][0][1]
    assert "without a classifier" in result.artifacts["README.md"].read_text()


def test_a_classifier_learns_without_labels_and_is_evaluated_by_its_agreement_with_the_teacher(backbone, pool):
    method = {"name": "kd", "alpha": 1.0, "temperature": 1.0}
    result, reporter = backbone(pool, changes={"method": method})
    second, again = backbone(pool, "again", changes={"method": method})

    opened = timm.create_model(f"local-dir:{result.artifacts['config.json'].parent}", pretrained=True).eval()
    report = json.loads(result.artifacts["report.json"].read_text())
    assert opened(torch.zeros(2, 1, SIZE, SIZE)).shape == (2, 7)  # the teacher's classes
    assert (result.result["student"]["top1"], result.result["teachers"][0]["top1"]) == (None, None)
    assert 0 <= result.result["agreement"] <= 1
    assert {name for name in reporter.series if "top1" in name or "label" in name} == set()
    assert reporter.series["train/loss"][-1][1] < reporter.series["train/loss"][0][1]
    assert not report["details"]["teachers"][0]["evaluation"]["hit"]
    assert "same class for" in result.artifacts["README.md"].read_text()
    assert again.series["train/loss"] == reporter.series["train/loss"]
    assert second.result["agreement"] == result.result["agreement"]  # from cached predictions of the teacher


def test_a_backbone_is_evaluated_by_nearest_neighbors_if_there_are_labels(backbone, dataset):
    result, _ = backbone(dataset)

    report = json.loads(result.artifacts["report.json"].read_text())
    assert result.result["student"]["top1"] > 0.5
    assert 0 <= result.result["teachers"][0]["top1"] <= 1
    assert "neighbors" in report["details"]["student"]["top1_metric"]
    assert report["details"]["student"]["linear_probe_top1"] > 0.5
    assert "nearest neighbors" in result.artifacts["README.md"].read_text()
    assert "label_names" not in json.loads(result.artifacts["config.json"].read_text())["pretrained_cfg"]


def test_a_backbone_has_the_same_bits_after_an_interruption(backbone, dataset):
    uninterrupted, _ = backbone(dataset, "uninterrupted")

    with pytest.raises(Interrupted):
        backbone(dataset, "interrupted", control=Control.PAUSE, stage=Stage.DISTILL, after=7)
    last, _ = backbone(dataset, "interrupted")

    assert digest(last) == digest(uninterrupted)


def test_a_backbone_can_initialize_the_student_of_a_labeled_dataset(backbone, attempt, dataset):
    first, _ = backbone(dataset, "first")
    models = {"job_first": first.artifacts["config.json"].parent}
    spec = resolved(dataset, models, method={"name": "scratch"}, teachers=[], student=vit(weights="job_first"))

    result, _ = attempt(spec, "second", models=models)

    assert result.result["student"]["top1"] is not None


def label_free(method, **sizes):
    """Changes of the backbone's job: a method, and a student with the teacher's 4 × 4 patches."""
    student = vit()
    student["arguments"] |= {"patch_size": 2, **sizes}
    return {"method": {"name": method}, "student": student, "export": ["safetensors"]}


STANDARDIZED = {"method": {"name": "proteus", "normalization": "phi_s"}}


@pytest.mark.parametrize(
    "changes",
    [label_free("proteus") | STANDARDIZED, label_free("tinymim", num_heads=4)],
    ids=["proteus, phi_s", "tinymim"],
)
def test_a_label_free_method_has_the_same_bits_after_an_interruption(backbone, pool, changes):
    uninterrupted, reporter = backbone(pool, "uninterrupted", changes=changes)

    with pytest.raises(Interrupted):
        backbone(pool, "interrupted", changes=changes, control=Control.PAUSE, stage=Stage.DISTILL, after=7)
    last, _ = backbone(pool, "interrupted", changes=changes)

    losses = [value for _, value in reporter.series["train/loss"]]
    assert digest(last) == digest(uninterrupted)
    assert losses[-1] < losses[0]


def test_a_job_trains_a_student_of_tinymim_on_and_keeps_its_heads(backbone, attempt, pool, dataset):
    first, _ = backbone(pool, "first", changes=label_free("tinymim", num_heads=4))
    models = {"job_first": first.artifacts["config.json"].parent}
    spec = resolved(dataset, models, student={"weights": "job_first"})

    result, _ = attempt(spec, "second", models=models)

    folder = result.artifacts["config.json"].parent
    opened = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert spec.method.name == "kd"
    assert [block.attn.num_heads for block in opened.blocks] == [2]
    assert result.result["student"]["top1"] is not None


@pytest.mark.slow  # tests/core/methods/test_registry.py has cached outputs and resumption of every method
def test_scalekd_reads_cached_outputs_and_has_the_same_bits_after_an_interruption(attempt, dataset):
    teacher = document()["teachers"][0]
    teacher["arguments"]["depth"] = 2
    spec = resolved(dataset, method={"name": "scalekd"}, teachers=[teacher])
    uninterrupted, reporter = attempt(spec, "uninterrupted")

    with pytest.raises(Interrupted):
        attempt(spec, "interrupted", control=Control.PAUSE, stage=Stage.DISTILL, after=7)
    last, _ = attempt(spec, "interrupted")

    report = json.loads(last.artifacts["report.json"].read_text())
    assert digest(last) == digest(uninterrupted)
    assert report["details"]["teacher_cache"]["hits"] > 0
    assert len(reporter.series["train/through_teacher_direct"]) == len(reporter.series["train/loss"])


def cnn(**more):
    sizes = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "stem_width": 8}
    return {"architecture": "resnet10t", "arguments": sizes, **more}


def test_batch_norm_statistics_of_short_trainings_are_reestimated_and_the_same_after_interruptions(attempt, dataset):
    teacher = cnn(weights="train", training={"epochs": 2, "batch_size": 16})
    training = {**document()["training"], "ema": 0.9}
    spec = resolved(dataset, student=cnn(), teachers=[teacher], training=training)
    uninterrupted, reporter = attempt(spec, "uninterrupted")
    interrupt(attempt, spec, (Control.DRAIN, Stage.TEACHER, 12), (Control.PAUSE, Stage.EVALUATE, 1))  # after last steps
    resumed, _ = attempt(spec, "interrupted")

    assert reporter.event_data("student.batch_norm_updated") == {"layers": 15, "images": 90, "updates": 24}
    assert reporter.event_data("teacher.batch_norm_updated")["updates"] == 12
    report = json.loads(uninterrupted.artifacts["report.json"].read_text())
    assert report["details"]["batch_norm"] == {"layers": 15, "images": 90, "updates": 24}
    assert digest(resumed) == digest(uninterrupted)


def test_a_teacher_with_a_permuted_head_gives_a_warning_before_the_training(attempt, dataset, tmp_path):
    scratch = {"method": {"name": "scratch"}, "teachers": [], "training": {**document()["training"], "epochs": 15}}
    result, _ = attempt(resolved(dataset, **scratch), "good")
    folder = result.artifacts["model.safetensors"].parent
    weights = load_file(folder / "model.safetensors")
    for name in ("head.weight", "head.bias"):
        weights[name] = weights[name].roll(1, dims=0)
    save_file(weights, folder / "model.safetensors")

    models = {"mdl_permuted": folder}
    spec = resolved(dataset, models, teachers=[vit(weights="mdl_permuted")])
    _, reporter = attempt(spec, "distilled", models=models, control=Control.STOP, stage=Stage.DISTILL, after=1)

    assert reporter.series["teacher/0/top1"][0][1] < 0.2
    (warning,) = [w for w in reporter.warnings() if w.code == "teacher_at_chance"]
    assert warning.field == "/teachers/0"
    assert reporter.event_types.index("job.warning") < reporter.event_types.index("training.stopped")


def test_a_diverged_student_succeeds_with_a_warning_in_events_and_report(attempt, dataset):
    training = {**document()["training"], "learning_rate": 10.0, "gradient_clip": None, "warmup_epochs": 0}
    result, reporter = attempt(resolved(dataset, method={"name": "scratch"}, teachers=[], training=training))

    report = json.loads(result.artifacts["report.json"].read_text())
    assert "student_diverged" in {warning["code"] for warning in report["warnings"]}
    assert "student_diverged" in {event.data["code"] for event in reporter.events if event.type == "job.warning"}


def test_a_student_that_was_stopped_before_it_learned_gives_a_warning(attempt, dataset):
    spec = resolved(dataset, method={"name": "scratch"}, teachers=[])
    _, reporter = attempt(spec, control=Control.STOP, stage=Stage.DISTILL, after=1)

    assert {"student_at_chance"} <= {warning.code for warning in reporter.warnings()}


def test_the_last_point_of_the_students_curve_is_that_of_the_exported_file(attempt, dataset):
    result, reporter = attempt(resolved(dataset, method={"name": "scratch"}, teachers=[], student=cnn()))

    step, top1 = reporter.series["eval/top1"][-1]
    assert (step, top1) == (24, result.result["student"]["top1"])


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["repvit_m0_9", "efficientvit_b0"])
def test_a_cnn_of_forty_steps_exports_what_it_learned(architecture, tmp_path):
    """Without new BatchNorm statistics these two scored 0.47 and 0.75 on images that they separate."""
    stripes = store_stripe_images(tmp_path, num_train=80, num_test=50)
    training = {"epochs": 4, "batch_size": 16, "image_size": 32}
    student = {"architecture": architecture, "arguments": {}}
    spec = resolved(stripes, method={"name": "scratch"}, teachers=[], student=student, training=training)
    (tmp_path / "job").mkdir()
    with RecordingReporter(tmp_path / "job") as reporter:
        workspace = Workspace(root=tmp_path / "job" / "run", cache=tmp_path / "cache", dataset=stripes)
        result = pipeline.run(spec, workspace, reporter)

    assert reporter.event_data("student.batch_norm_updated")["updates"] == 40
    assert result.result["student"]["top1"] > 0.9


@pytest.fixture
def no_exporter(monkeypatch):
    """Both exporters of ONNX fail, and count their calls."""
    calls = []

    def fail(module, example, scratch, opset):
        calls.append(module)
        scratch.write_bytes(b"half a file")
        raise RuntimeError("\x1b[96mno operator\x1b[0m\n/srv/app/core/export/onnx_graph.py")

    for name in CONVERTERS:
        monkeypatch.setitem(CONVERTERS, name, fail)
    return calls


def export_warnings(result):
    report = json.loads(result.artifacts["report.json"].read_text())
    return [warning for warning in report["warnings"] if warning["code"] == "export_failed"]


def test_a_format_that_fails_late_costs_no_student(attempt, dataset, no_exporter):
    spec = resolved(dataset, method={"name": "scratch"}, teachers=[], export=["safetensors", "onnx"])

    result, reporter = attempt(spec)

    assert set(result.artifacts) == {"model.safetensors", "config.json", "README.md", "report.json", "predictions.npz"}
    folder = result.artifacts["config.json"].parent
    assert sorted(path.name for path in folder.iterdir()) == sorted(result.artifacts)
    (warning,) = export_warnings(result)
    assert warning["field"] == "/export"
    assert warning["message"].endswith("cannot be expressed in ONNX: no operator")
    assert [entry.model_dump(mode="json") for entry in reporter.warnings()] == [warning]
    assert timm.create_model(f"local-dir:{folder}", pretrained=True).num_classes == 3


def test_a_format_that_fails_is_known_before_a_long_training(attempt, dataset, no_exporter, monkeypatch):
    monkeypatch.setattr(export_preflight, "_MIN_TRAINING_SECONDS", 0.0)
    spec = resolved(dataset, method={"name": "scratch"}, teachers=[], export=["safetensors", "onnx"])

    result, reporter = attempt(spec)

    events = reporter.event_types
    assert events.index("job.warning") == events.index("preflight.passed") + 1
    assert len(no_exporter) == len(CONVERTERS)  # tried before the training, and not again
    assert "model.onnx" not in result.artifacts
    assert len(export_warnings(result)) == 1
    attempt(spec, name="second")
    assert len(no_exporter) == len(CONVERTERS)


def test_a_preflight_of_the_formats_changes_no_bit_of_the_student(attempt, dataset, monkeypatch):
    spec = resolved(dataset, method={"name": "scratch"}, teachers=[], export=["safetensors", "onnx"])
    plain, _ = attempt(spec, name="plain")
    monkeypatch.setattr(export_preflight, "_MIN_TRAINING_SECONDS", 0.0)
    tried, _ = attempt(spec, name="tried", cache="other")

    assert digest(tried) == digest(plain)
    assert tried.artifacts["model.onnx"].read_bytes() == plain.artifacts["model.onnx"].read_bytes()

"""Whole runs of tiny jobs: what comes out, and that no interruption can be seen in it."""

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
from core.data.stored import StoredDataset
from core.errors import NonFiniteLoss, SpecCannotRun
from core.export.onnx_file import open_session
from core.ingest.dataset import ingest_folder
from core.local_reporter import FolderReporter
from core.models.build import build_student
from core.models.plan import plan_student
from core.models.safetensors_header import read_model_info
from core.models.weights import save_folder
from core.reporting import Control, Interrupted, Stage, Workspace
from core.resolve import resolver
from core.spec import StudentSpec, parse_job_spec
from core.spec.info import DatasetInfo, InputInfo
from core.teacher.frozen import FrozenTeacher

SIZE = 8


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """90 training and 30 test pictures of three classes, told apart by which band is bright."""
    root = tmp_path_factory.mktemp("bands")
    generator = np.random.default_rng(0)
    for split, count in (("train", 30), ("test", 10)):
        for label in range(3):
            folder = root / "images" / split / f"band{label}"
            folder.mkdir(parents=True)
            for index in range(count):
                picture = generator.integers(0, 120, (SIZE, SIZE), dtype=np.uint8)
                picture[2 * label : 2 * label + 2] += 120
                Image.fromarray(picture).save(folder / f"{index:02d}.png")
    ingest_folder(root / "images", root / "stored")
    return root / "stored"


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
    with StoredDataset.open(dataset) as stored:
        facts = DatasetInfo(
            num_classes=stored.num_classes,
            classes=stored.classes,
            channels=stored.channels,
            image_size=stored.image_size,
            num_train=len(stored.split("train")),
            num_test=len(stored.split("test")),
        )
    known = {name: read_model_info(folder) for name, folder in (models or {}).items()}
    return resolver.resolve(parse_job_spec(document(**more)), facts, known, threads=1)


def resolved(dataset, models=None, **more):
    return resolution(dataset, models, **more).spec


class Telling(FolderReporter):
    """Remembers stages and events, and wishes for something when a number of questions was asked in a stage."""

    def __init__(self, root, *, teachers, wish=Control.GO, stage=None, after=0):
        super().__init__(root, teachers=teachers)
        self.stages, self.events, self.data, self.told, self.fractions = [], [], {}, {}, []
        self._wish, self._wish_stage, self._after = wish, stage, after

    def stage_started(self, stage):
        super().stage_started(stage)
        self.stages.append(stage.value)

    def event(self, type, message, *, level="info", data=None):  # noqa: A002 - the wire's word
        self.events.append(type)
        self.data[type] = data

    def metrics(self, step, values):
        super().metrics(step, values)
        for name, value in values.items():
            self.told.setdefault(name, []).append((step, value))

    def progress(self, progress):
        super().progress(progress)
        self.fractions.append(progress.fraction)

    def control(self):
        if self.stage is self._wish_stage:
            self._after -= 1
            if self._after < 0:
                return self._wish
        return Control.GO


@pytest.fixture
def attempt(dataset, tmp_path):
    """Runs a spec as one attempt of a job; attempts of one name share their folder, all share ``teachers``."""

    def make(
        spec,
        name="job",
        *,
        models=None,
        teachers=None,
        cache="cache",
        teacher_cache_bytes=10**9,
        pixel_cache_bytes=10**9,
        **wishes,
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
        with Telling(root, teachers=teachers or root / "teachers", **wishes) as reporter:
            return pipeline.run(spec, workspace, reporter), reporter

    return make


def digest(result):
    return hashlib.sha256(result.artifacts["model.safetensors"].read_bytes()).hexdigest()


def test_a_job_ends_with_the_contracts_result_and_files_that_timm_opens(attempt, dataset):
    result, told = attempt(
        resolved(dataset, export=["safetensors", "onnx"], training={**document()["training"], "epochs": 15})
    )

    assert set(result.artifacts) == {"model.safetensors", "config.json", "model.onnx", "README.md", "report.json"}
    assert set(result.result) == {"student", "teachers", "compressed", "agreement"}
    figures = {"top1", "top5", "parameters", "flops", "size_bytes", "latency_ms"}
    assert figures <= set(result.result["student"])
    assert [figures <= set(teacher) for teacher in result.result["teachers"]] == [True]
    assert result.result["student"]["top1"] > 0.5
    assert told.stages == ["prepare", "teacher", "distill", "evaluate", "export"]
    assert told.events == ["preflight.passed", "teacher.trained", "teacher_cache.summary"]
    assert told.fractions == sorted(told.fractions)
    assert told.fractions[-1] == 1.0
    assert {len(told.told["train/loss"]), len(told.told["train/distillation"])} == {90}
    assert told.told["teacher/0/top1"][0][0] == 0
    assert 1 <= len(told.told["eval/top1"]) <= 20
    folder = result.artifacts["config.json"].parent
    opened = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert opened(torch.zeros(2, 1, SIZE, SIZE)).shape == (2, 3)
    assert sum(p.numel() for p in opened.parameters()) == result.result["student"]["parameters"]
    report = json.loads(result.artifacts["report.json"].read_text())
    assert set(report["stages"]) == {"prepare", "teacher", "distill", "evaluate"}


def test_threads_and_determinism_are_as_before_after_a_run(attempt, dataset):
    before = torch.get_num_threads()

    attempt(resolved(dataset, method={"name": "scratch"}, teachers=[], resources={"threads": before + 1}))

    assert torch.get_num_threads() == before
    assert not torch.are_deterministic_algorithms_enabled()


FRESH = """
import json, sys
from pathlib import Path
from core import pipeline
from core.local_reporter import FolderReporter
from core.reporting import Workspace
from core.spec import parse_job_spec
root, cache, dataset, spec = (Path(word) for word in sys.argv[1:])
with FolderReporter(root, teachers=root / "teachers") as reporter:
    workspace = Workspace(root / "run", cache, dataset)
    result = pipeline.run(parse_job_spec(json.loads(spec.read_text())), workspace, reporter)
print(result.artifacts["model.safetensors"])
"""


def interrupted(attempt, spec, *moments):
    for wish, stage, after in moments:
        with pytest.raises(Interrupted) as leaving:
            attempt(spec, "shaken", wish=wish, stage=stage, after=after)
        assert leaving.value.control is wish


def test_a_job_that_is_interrupted_and_ends_in_a_fresh_process_gives_the_same_bits(attempt, dataset, tmp_path):
    training = {**document()["training"], "ema": 0.99, "augmentation": "strong", "views": 3}
    spec = resolved(dataset, training=training)
    calm, _ = attempt(spec, "calm")

    interrupted(
        attempt,
        spec,
        (Control.PAUSE, Stage.PREPARE, 1),
        (Control.DRAIN, Stage.TEACHER, 8),
        (Control.PAUSE, Stage.TEACHER, 5),
        (Control.DRAIN, Stage.DISTILL, 10),
    )
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    words = [str(tmp_path / "shaken"), str(tmp_path / "cache"), str(dataset), str(tmp_path / "spec.json")]
    fresh = subprocess.run([sys.executable, "-c", FRESH, *words], capture_output=True, text=True, check=False)

    assert fresh.returncode == 0, fresh.stderr
    assert hashlib.sha256(Path(fresh.stdout.strip()).read_bytes()).hexdigest() == digest(calm)


def test_a_swin_with_shared_blocks_is_resumed_with_the_same_bits_and_opened_by_timm_and_onnx(attempt, dataset):
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
    calm, told = attempt(spec.model_copy(update={"export": ("safetensors",)}), "calm")
    interrupted(attempt, spec, (Control.DRAIN, Stage.DISTILL, 6))
    again, _ = attempt(spec, "shaken")

    opened = timm.create_model(f"local-dir:{again.artifacts['config.json'].parent}", pretrained=True).eval()
    pictures = torch.randn(5, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    (logits,) = open_session(again.artifacts["model.onnx"]).run(["logits"], {"images": pictures.numpy()})

    assert digest(again) == digest(calm)
    assert {"train/distillation", "train/relation", "train/hidden"} <= told.told.keys()
    assert sum(p.numel() for p in opened.parameters()) == again.result["student"]["parameters"]
    assert [len(stage.blocks) for stage in opened.layers] == [1, 1]
    torch.testing.assert_close(opened(pictures), torch.from_numpy(logits), rtol=1e-4, atol=1e-5)


def test_a_job_that_is_cancelled_and_retried_and_paused_after_training_gives_the_same_bits(attempt, dataset, tmp_path):
    spec = resolved(dataset)
    calm, _ = attempt(spec, "calm")

    interrupted(attempt, spec, (Control.CANCEL, Stage.DISTILL, 12), (Control.PAUSE, Stage.EVALUATE, 1))
    steps = sorted(path.name for path in (tmp_path / "shaken" / "checkpoints" / "distill").iterdir())
    last, told = attempt(spec, "shaken")

    assert steps[-1] == "000000024"
    assert told.events == ["teacher.reused", "training.resumed"]  # and no probe: that was done
    assert digest(last) == digest(calm)


def test_a_teacher_is_found_again_by_its_recipe_and_teaches_the_same(attempt, dataset, tmp_path):
    shared = tmp_path / "teachers"
    first, told_first = attempt(resolved(dataset), "first", teachers=shared)
    second, told_second = attempt(resolved(dataset, name="another job"), "second", teachers=shared)

    assert "teacher.trained" in told_first.events
    assert told_second.events == ["teacher.reused", "preflight.passed", "teacher_cache.summary"]
    assert "teacher" not in told_second.stages
    assert digest(second) == digest(first)


# --- what a teacher said ------------------------------------------------------------------------


def fixed_views(dataset, **more):
    """A teacher that is quickly there, and two mixed views of each picture."""
    training = {**document()["training"], "views": 2, "augmentation": "strong", "mixup": 0.5}
    return resolved(dataset, teachers=[vit(24, weights="random")], training=training, **more)


@pytest.fixture
def asked(monkeypatch):
    """How many pictures teachers are asked about at once, call by call."""
    sizes = []
    answer = FrozenTeacher.__call__

    def counting(self, images):
        sizes.append(len(images))
        return answer(self, images)

    monkeypatch.setattr(FrozenTeacher, "__call__", counting)
    return sizes


TAPPING = {"name": "fitnets", "logits": "none"}  # levels, and nothing behind them
each_kind = pytest.mark.parametrize("method", [{"name": "kd"}, TAPPING], ids=["logits", "features"])


@each_kind
def test_what_a_teacher_said_is_never_asked_again(attempt, dataset, asked, method):
    filling, told = attempt(fixed_views(dataset, method=method), "first")
    in_blocks = [size for size in asked if size != 15]  # the probe asks about batches
    asked.clear()
    reading, told_again = attempt(fixed_views(dataset, name="another job", method=method), "second")

    assert in_blocks == [64, 26] * 2
    assert asked == []  # nor is another probe made for a job of the same form
    assert digest(reading) == digest(filling)
    found, again = told.data["teacher_cache.summary"], told_again.data["teacher_cache.summary"]
    assert (found["hits"], found["misses"], found["saved_seconds"] > 0) == (2, 2, True)
    assert (again["hits"], again["misses"], again["seconds"]) == (4, 0, 0.0)
    report = json.loads(reading.artifacts["report.json"].read_text())
    assert report["details"]["teacher_cache"] == again


@pytest.mark.parametrize(("method", "needed"), [({"name": "kd"}, 2 * 90 * 3 * 2), (TAPPING, 2 * 90 * 5 * 24 * 2)])
def test_a_job_that_has_no_room_to_store_what_its_teacher_says_gives_the_same_bits(attempt, dataset, method, needed):
    spec = fixed_views(dataset, method=method)
    stored, _ = attempt(spec, "rich")
    not_stored, told = attempt(spec, "poor", cache="other", teacher_cache_bytes=1_000)

    assert told.data["teacher_cache.disabled"] == {"reason": f"it needs {needed:,} bytes, and its limit is 1,000 bytes"}
    assert told.data["teacher_cache.summary"]["misses"] == 4
    assert digest(not_stored) == digest(stored)


def test_a_job_that_has_no_room_for_decoded_pictures_gives_the_same_bits(attempt, dataset, tmp_path):
    mapped, _ = attempt(fixed_views(dataset), "rich")
    on_demand, _ = attempt(fixed_views(dataset), "poor", cache="other", pixel_cache_bytes=0)

    assert not (tmp_path / "other" / "pixels").exists()
    assert digest(on_demand) == digest(mapped)


@each_kind
def test_rows_that_stay_on_disk_give_the_same_bits_as_those_in_memory(attempt, dataset, monkeypatch, method):
    spec = fixed_views(dataset, method=method)
    held, _ = attempt(spec, "held")
    monkeypatch.setattr("core.teacher.output_cache.MOST_HELD_BYTES", 0)
    reading, told = attempt(spec, "reading")
    monkeypatch.setattr("core.teacher.output_cache.SHARD_ROWS", 64)
    filling, _ = attempt(spec, "filling", cache="other")
    poor, _ = attempt(spec, "poor", cache="another", teacher_cache_bytes=0)

    assert told.data["teacher_cache.summary"]["misses"] == 0
    assert {digest(reading), digest(filling), digest(poor)} == {digest(held)}


def test_a_job_that_is_interrupted_while_its_teacher_is_asked_gives_the_same_bits(
    attempt, dataset, tmp_path, monkeypatch
):
    calm, _ = attempt(fixed_views(dataset), "calm", cache="other")
    monkeypatch.setattr("core.teacher.output_cache.SHARD_ROWS", 64)
    shards = []
    for after in (3, 4, 9):
        interrupted(attempt, fixed_views(dataset), (Control.DRAIN, Stage.DISTILL, after))
        shards.append(len(list((tmp_path / "cache" / "teacher_outputs").rglob("*.shard"))))
    last, _ = attempt(fixed_views(dataset), "shaken")

    assert 0 <= shards[0] < shards[1] < 4
    assert digest(last) == digest(calm)


KILLED = """
import os, signal
from core.teacher.store import Entry
write, written = Entry.write, []
def die_at_the_second(self, number, shard):
    written.append(number)
    if len(written) == 2:
        self._folder.mkdir()
        self._path(self._folder, number).with_suffix(".partial").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, number, shard)
Entry.write = die_at_the_second
"""


@each_kind
def test_a_job_that_is_killed_while_it_stores_what_its_teacher_said_gives_the_same_bits(
    attempt, dataset, tmp_path, method
):
    spec = fixed_views(dataset, method=method)
    calm, _ = attempt(spec, "calm", cache="other")
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    words = [str(tmp_path / "killed"), str(tmp_path / "cache"), str(dataset), str(tmp_path / "spec.json")]
    killed = subprocess.run([sys.executable, "-c", KILLED + FRESH, *words], capture_output=True, text=True, check=False)

    last, told = attempt(spec, "killed")

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "training.resumed" in told.events or told.data["teacher_cache.summary"]["hits"] > 2
    assert digest(last) == digest(calm)


def test_a_method_that_shows_its_teacher_a_part_of_each_picture_asks_it_about_every_batch(attempt, dataset, asked):
    _, told = attempt(fixed_views(dataset, method={"name": "masked_teacher"}))

    assert "teacher_cache.summary" not in told.events
    assert set(asked) == {15}


@each_kind
def test_a_job_stores_what_its_estimate_announced(attempt, dataset, tmp_path, method):
    found = resolution(dataset, teachers=[vit(24, weights="random")], method=method)
    _, told = attempt(found.spec)
    shards = list((tmp_path / "cache" / "teacher_outputs").rglob("*.shard"))
    estimate, cached = found.estimate["teacher_cache"], told.data["teacher_cache.summary"]

    assert estimate["bytes"] == cached["bytes"]
    assert 0 < sum(file.stat().st_size for file in shards) - estimate["bytes"] <= 192 * len(shards)
    assert (estimate["cache_key"], estimate["views"]) == (cached["cache_key"], cached["views"])


def test_a_teacher_is_evaluated_once_for_all_jobs(attempt, dataset, monkeypatch):
    first, told = attempt(fixed_views(dataset), "first")
    measured, looks = [], []
    measure, logits = pipeline.measure_model, FrozenTeacher.logits
    monkeypatch.setattr(pipeline, "measure_model", lambda *args, **more: measured.append(1) or measure(*args, **more))
    monkeypatch.setattr(FrozenTeacher, "logits", lambda self, images: looks.append(1) or logits(self, images))
    second, told_again = attempt(fixed_views(dataset, method={"name": "dkd"}), "second")

    assert (measured, looks) == ([], [])
    assert second.result["teachers"] == first.result["teachers"]
    assert told_again.told["teacher/0/top1"] == told.told["teacher/0/top1"]
    reports = [json.loads(one.artifacts["report.json"].read_text()) for one in (first, second)]
    before, now = (report["details"]["teachers"][0]["evaluation"] for report in reports)
    assert (before["hit"], before["saved_seconds"]) == (False, 0.0)
    assert (now["hit"], now["saved_seconds"] > 0) == (True, True)


def test_no_teacher_is_asked_about_views_of_a_stage_without_one(attempt, dataset, asked):
    training = {**document()["training"], "views": None}
    method = {"name": "dearkd", "first_stage": 0.5}
    teacher = {"architecture": "resnet10t", "weights": "random"}
    _, told = attempt(resolved(dataset, teachers=[teacher], training=training, method=method))

    assert told.data["teacher_cache.summary"]["misses"] == told.data["teacher_cache.summary"]["views"] == 2
    assert [size for size in asked if size != 15] == [64, 26] * 2


def test_a_stop_ends_early_and_still_evaluates_and_exports(attempt, dataset, tmp_path):
    result, told = attempt(resolved(dataset), wish=Control.STOP, stage=Stage.DISTILL, after=9)

    assert told.stages[-2:] == ["evaluate", "export"]
    assert "training.stopped" in told.events
    assert 1 <= told.latest.step < told.latest.total_steps == 24
    assert told.latest.fraction == 1.0
    assert result.result["student"]["top1"] is not None


def test_a_stop_while_a_teacher_learns_ends_everything_early_and_keeps_no_teacher(attempt, dataset, tmp_path):
    result, told = attempt(resolved(dataset), wish=Control.STOP, stage=Stage.TEACHER, after=4)

    assert "teacher.trained" not in told.events
    assert not (tmp_path / "job" / "teachers").exists()
    assert len(result.result["teachers"]) == 1


def test_deit_exports_timms_distilled_vit_and_is_not_kd(attempt, dataset, tmp_path):
    shared = tmp_path / "teachers"
    kd, _ = attempt(resolved(dataset), "kd", teachers=shared)
    deit, told = attempt(resolved(dataset, method={"name": "deit"}), "deit", teachers=shared)

    opened = timm.create_model(f"local-dir:{deit.artifacts['config.json'].parent}", pretrained=True)
    weights = load_file(deit.artifacts["model.safetensors"])
    assert type(opened).__name__ == "VisionTransformerDistilled"
    assert not weights["head.weight"].equal(weights["head_dist.weight"])
    assert not weights["head.weight"].equal(load_file(kd.artifacts["model.safetensors"])["head.weight"])
    assert len(told.told["train/distillation"]) == 24
    assert deit.result["student"]["parameters"] > kd.result["student"]["parameters"]


def test_both_heads_of_a_deit_student_learn(attempt, dataset):
    training = {**document()["training"], "epochs": 15, "learning_rate": 1e-2}

    deit, told = attempt(resolved(dataset, method={"name": "deit"}, training=training))

    label, distillation = (told.told[f"train/{name}"] for name in ("label", "distillation"))
    assert label[-1][1] < 0.7 * label[0][1]
    assert distillation[-1][1] < 0.7 * distillation[0][1]
    assert deit.result["student"]["top1"] > 0.6


def test_another_seed_is_another_student_and_the_same_seed_the_same(attempt, dataset):
    def student(name, seed):
        spec = resolved(
            dataset, method={"name": "scratch"}, teachers=[], training={**document()["training"], "seed": seed}
        )
        return digest(attempt(spec, name)[0])

    assert student("a", 0) == student("b", 0) != student("c", 1)


def test_the_average_is_what_is_exported(attempt, dataset):
    def weights(name, ema):
        spec = resolved(
            dataset, method={"name": "scratch"}, teachers=[], training={**document()["training"], "ema": ema}
        )
        return load_file(attempt(spec, name)[0].artifacts["model.safetensors"])

    assert not weights("average", 0.9)["head.weight"].equal(weights("plain", None)["head.weight"])


def test_a_student_of_an_earlier_job_teaches_and_is_continued(attempt, dataset):
    first, _ = attempt(resolved(dataset, method={"name": "scratch"}, teachers=[]), "first")
    models = {"job_first": first.artifacts["config.json"].parent}
    spec = resolved(
        dataset, models, teachers=[vit(weights="job_first")], student=vit(weights="job_first"), method={"name": "kd"}
    )

    second, told = attempt(spec, "second", models=models)

    assert "teacher" not in told.stages
    assert second.result["teachers"][0]["top1"] == first.result["student"]["top1"]
    assert told.told["train/distillation"][0][1] < 0.1  # it begins as its own teacher, drop-path aside


def test_poisoned_teacher_weights_fail_before_any_step(attempt, dataset, tmp_path):
    first, _ = attempt(resolved(dataset, method={"name": "scratch"}, teachers=[]), "first")
    folder = first.artifacts["config.json"].parent
    weights = load_file(folder / "model.safetensors")
    save_file({n: torch.full_like(t, float("nan")) for n, t in weights.items()}, folder / "model.safetensors")
    models = {"mdl_bad": folder}
    spec = resolved(dataset, models, teachers=[vit(weights="mdl_bad")])

    with pytest.raises(NonFiniteLoss, match="distillation"):
        attempt(spec, "second", models=models)

    assert not (tmp_path / "second" / "checkpoints" / "distill").exists()


def test_kept_weights_come_every_so_many_epochs(attempt, dataset, tmp_path):
    training = {**document()["training"], "keep_weights_every_epochs": 2}

    attempt(resolved(dataset, method={"name": "scratch"}, teachers=[], training=training))

    kept = sorted(path.name for path in (tmp_path / "job" / "weights").iterdir())
    assert kept == ["distill-epoch-00002.safetensors", "distill-epoch-00004.safetensors"]


def test_a_dataset_without_labels_is_refused(attempt, dataset, tmp_path):
    spec = resolved(dataset, method={"name": "scratch"}, teachers=[])
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(10):
        Image.fromarray(np.full((SIZE, SIZE), index, np.uint8)).save(folder / f"{index}.png")
    ingest_folder(folder, tmp_path / "unlabelled")
    (tmp_path / "run").mkdir()

    with FolderReporter(tmp_path / "run", teachers=tmp_path / "teachers") as reporter:
        workspace = Workspace(tmp_path / "run", tmp_path / "cache", tmp_path / "unlabelled")
        with pytest.raises(SpecCannotRun, match="labels"):
            pipeline.run(spec, workspace, reporter)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """100 pictures without labels, 80 of them to train on."""
    root = tmp_path_factory.mktemp("pool")
    generator = np.random.default_rng(7)
    (root / "images").mkdir()
    for index in range(100):
        Image.fromarray(generator.integers(0, 256, (SIZE, SIZE), dtype=np.uint8)).save(root / "images" / f"{index}.png")
    ingest_folder(root / "images", root / "stored")
    return root / "stored"


def test_a_student_of_the_pool_is_the_same_bits_after_interruptions(dataset, pool, tmp_path):
    with StoredDataset.open(pool) as stored:
        facts = DatasetInfo(channels=1, image_size=SIZE, num_train=len(stored.split("train")), num_test=1)
    method = {"name": "attention_probe", "pool": "ds_pool", "num_select": 30, "balanced": True}
    with StoredDataset.open(dataset) as stored:
        own = DatasetInfo(num_classes=3, classes=stored.classes, channels=1, image_size=SIZE, num_train=90, num_test=30)
    training = {**document()["training"], "mixup": 0.5}
    resolution = resolver.resolve(
        parse_job_spec(document(method=method, training=training)), own, {}, threads=1, datasets={"ds_pool": facts}
    )

    def run(name, cache, **wishes):
        (tmp_path / name).mkdir(exist_ok=True)
        root, shared = tmp_path / name, tmp_path / cache
        workspace = Workspace(root / "run", shared, dataset, datasets={"ds_pool": pool})
        with Telling(root, teachers=root / "teachers", **wishes) as reporter:
            return pipeline.run(resolution.spec, workspace, reporter), reporter

    calm, told = run("calm", "cache-calm")
    with pytest.raises(Interrupted):
        run("shaken", "cache-shaken", wish=Control.DRAIN, stage=Stage.DISTILL, after=2)
    with pytest.raises(Interrupted):
        run("shaken", "cache-shaken", wish=Control.PAUSE, stage=Stage.DISTILL, after=9)
    last, told_again = run("shaken", "cache-shaken")

    assert told.latest.total_steps == resolution.estimate["total_steps"] == 4 * 2
    assert told.fractions[-1] == 1.0
    assert [event for event in told.events if event.startswith("pool")] == ["pool.chosen"]
    assert "training.resumed" in told_again.events
    assert len(told.told["train/probe"]) == 8
    assert digest(last) == digest(calm)


def test_a_pruned_student_is_handed_out_small_and_the_same_after_an_interruption(attempt, dataset):
    first, _ = attempt(resolved(dataset, method={"name": "scratch"}, teachers=[]), "first")
    models = {"job_first": first.artifacts["config.json"].parent}
    spec = resolved(
        dataset, models, teachers=[], student=vit(weights="job_first"), method={"name": "uvc", "budget": 0.6}
    )

    calm, _ = attempt(spec, "calm", models=models)
    with pytest.raises(Interrupted):
        attempt(spec, "shaken", models=models, wish=Control.PAUSE, stage=Stage.DISTILL, after=7)
    last, _ = attempt(spec, "shaken", models=models)

    assert digest(last) == digest(calm)
    assert calm.result["student"]["flops"] <= 0.6 * first.result["student"]["flops"]
    assert calm.result["student"]["parameters"] < first.result["student"]["parameters"]
    opened = timm.create_model(f"local-dir:{calm.artifacts['config.json'].parent}", pretrained=True)
    assert sum(p.numel() for p in opened.parameters()) == calm.result["student"]["parameters"]


def test_of_two_students_the_better_one_is_handed_out_and_the_same_after_interruptions(attempt, dataset):
    peer = {"architecture": "vit_tiny_patch16_224", "arguments": {**vit(24)["arguments"], "depth": 2}}
    training = {**document()["training"], "epochs": 8, "batch_size": 9, "learning_rate": 1e-2}
    weak = {**vit(), "arguments": {"patch_size": 8, "embed_dim": 2, "depth": 1, "num_heads": 1}}
    spec = resolved(dataset, method={"name": "mutual", "peer": peer}, teachers=[], student=weak, training=training)

    calm, told = attempt(spec, "calm")
    interrupted(attempt, spec, (Control.PAUSE, Stage.DISTILL, 20), (Control.DRAIN, Stage.EVALUATE, 0))
    last, _ = attempt(spec, "shaken")

    assert digest(last) == digest(calm)
    weights = load_file(calm.artifacts["model.safetensors"])
    assert weights["head.weight"].shape == (3, 24)
    assert told.latest.total_steps == 8 * 9  # 81 of 90 pictures in batches of 9, the others are held out


def test_what_a_student_learned_from_itself_is_the_same_after_an_interruption(attempt, dataset):
    spec = resolved(dataset, method={"name": "self_distillation", "variant": "ema_teacher"}, teachers=[])

    calm, told = attempt(spec, "calm")
    interrupted(attempt, spec, (Control.PAUSE, Stage.DISTILL, 7))
    last, _ = attempt(spec, "shaken")

    assert digest(last) == digest(calm)
    assert len(told.told["train/distillation"]) == 24
    assert timm.create_model(f"local-dir:{calm.artifacts['config.json'].parent}", pretrained=True)


FOUNDATION = {"architecture": "vit_tiny_patch16_224", "weights": "mdl_foundation"}


def facts_of(folder):
    with StoredDataset.open(folder) as stored:
        return DatasetInfo(
            num_classes=stored.num_classes,
            classes=stored.classes,
            channels=stored.channels,
            image_size=stored.image_size,
            num_train=len(stored.split("train")),
            num_test=len(stored.split("test")),
        )


@pytest.fixture
def foundation(tmp_path):
    """A teacher for 7 classes of coloured pictures 16 × 16, which are not those of any dataset here."""
    torch.manual_seed(0)
    facts = InputInfo(num_classes=7, channels=3, image_size=16)
    spec = StudentSpec.model_validate(vit(24))
    built = build_student(plan_student(spec, facts, image_size=16))
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
    """Runs a job of ``feature`` on a dataset."""

    def run(folder, name="job", **wishes):
        models = {"mdl_foundation": foundation}
        asked = document(method={"name": "feature"}, teachers=[FOUNDATION], export=["safetensors", "onnx"])
        known = {"mdl_foundation": read_model_info(foundation)}
        resolution = resolver.resolve(parse_job_spec(asked), facts_of(folder), known, threads=1)
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        workspace = Workspace(root=root / "run", cache=tmp_path / "cache", dataset=folder, models=models)
        with Telling(root, teachers=root / "teachers", **wishes) as reporter:
            return pipeline.run(resolution.spec, workspace, reporter), reporter

    return run


def test_a_backbone_learns_from_pictures_without_labels(backbone, pool):
    result, told = backbone(pool)

    folder = result.artifacts["config.json"].parent
    opened = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert opened(torch.zeros(2, 1, SIZE, SIZE)).shape == (2, 16)
    assert result.result["student"]["top1"] is None
    assert [teacher["top1"] for teacher in result.result["teachers"]] == [None]
    assert result.result["agreement"] is None
    assert {name for name in told.told if "top1" in name} == set()
    assert len(told.told["train/embedding"]) == len(told.told["train/patches"]) == 4 * 5
    assert told.told["train/loss"][-1][1] < told.told["train/loss"][0][1]
    assert "without a classifier" in result.artifacts["README.md"].read_text()


def test_a_backbone_is_judged_by_its_neighbours_where_there_are_labels(backbone, dataset):
    result, _ = backbone(dataset)

    report = json.loads(result.artifacts["report.json"].read_text())
    assert result.result["student"]["top1"] > 0.5
    assert 0 <= result.result["teachers"][0]["top1"] <= 1
    assert "neighbours" in report["details"]["student"]["top1_metric"]
    assert report["details"]["student"]["linear_probe_top1"] > 0.5
    assert "nearest neighbours" in result.artifacts["README.md"].read_text()
    assert "label_names" not in json.loads(result.artifacts["config.json"].read_text())["pretrained_cfg"]


def test_a_backbone_has_the_same_bits_after_an_interruption(backbone, dataset):
    calm, _ = backbone(dataset, "calm")

    with pytest.raises(Interrupted):
        backbone(dataset, "shaken", wish=Control.PAUSE, stage=Stage.DISTILL, after=7)
    last, _ = backbone(dataset, "shaken")

    assert digest(last) == digest(calm)


def test_a_backbone_goes_on_as_the_student_of_a_labelled_dataset(backbone, attempt, dataset):
    first, _ = backbone(dataset, "first")
    models = {"job_first": first.artifacts["config.json"].parent}
    spec = resolved(dataset, models, method={"name": "scratch"}, teachers=[], student=vit(weights="job_first"))

    result, _ = attempt(spec, "second", models=models)

    assert result.result["student"]["top1"] is not None

"""The quality benchmark gives every method the same budget, resumes, and reports methods without effect."""

import json
import random
from dataclasses import asdict

import pytest

from benchmarks.cifar10 import SplitSizes, _shuffled_parts
from benchmarks.quality import Budget, QualityBenchmark, baseline, entries
from benchmarks.quality_page import page
from core.spec import METHODS, parse_job_spec

BUDGET = Budget()
TEACHERS = {
    "cnn": {"architecture": "dla34", "weights": "mdl_cnn"},
    "vit": {"architecture": "vit_tiny_patch16_224", "weights": "mdl_vit"},
}


@pytest.fixture
def bench(tmp_path):
    made = QualityBenchmark(tmp_path, tmp_path / "results", BUDGET, threads=1, minutes=None)
    made.folder.mkdir()
    made.teachers = TEACHERS
    return made


def result(name, top1, *, seed=0, validation=None, **more):
    entry = next(entry for entry in entries() if entry.name == name)
    return {
        "entry": name, **asdict(entry), "seed": seed, "budget": asdict(BUDGET), "status": "succeeded", "cnn": "dla34",
        "test_top1": top1, "validation_top1": validation or top1, "parameters": 300_000, "seconds": 60.0,
        "machine": {"processor": "CPU", "cpus": 2, "torch": "2"}, **more,
    }  # fmt: skip


def test_every_method_has_an_entry_and_a_baseline():
    names = [entry.name for entry in entries()]

    assert {entry.method for entry in entries()} == set(METHODS)
    assert len(set(names)) == len(names)
    assert {baseline(entry) for entry in entries()} <= set(names)


def test_all_entries_get_the_same_training(bench):
    specs = [parse_job_spec(bench._document(entry, 1)) for entry in entries()]

    assert len({spec.training.model_dump_json() for spec in specs}) == 1
    assert {spec.dataset for spec in specs} == {"ds_students"}


def test_the_best_are_chosen_on_validation_images_with_their_baselines(bench):
    scores = {
        "scratch": 0.9,
        "kd": 0.9,
        "dkd": 0.5,
        "nkd": 0.51,
        "dist": 0.52,
        "wsld": 0.53,
        "manifold": 0.8,
        "pkt": 0.1,
    }
    for name, validation in scores.items():
        document = result(name, 1 - validation, validation=validation)  # the test split has the opposite order
        (bench.folder / f"{name}-0.json").write_text(json.dumps(document))

    assert bench._best(0) == {"scratch", "kd", "dkd", "nkd", "dist", "wsld", "manifold", "kd, ViT teacher"}


def test_a_finished_run_is_not_repeated(bench):
    entry = entries()[0]
    (bench.folder / "scratch-0.json").write_text(json.dumps(result("scratch", 0.4)))

    assert bench._read(entry, 0)["test_top1"] == 0.4
    assert bench._read(entry, 1) is None
    bench.budget = Budget(epochs=3)
    assert bench._read(entry, 0) is None


def test_images_are_split_without_overlap_and_reproducibly():
    images = {label: [f"train/{label}/{n:02d}.jpg" for n in range(40)] for label in "ab"}
    sizes = SplitSizes(train=5, validation=4, unlabeled_pool=3, teacher_extra=6)
    random.seed(1)
    parts = _shuffled_parts(images, sizes)
    all_images = [name for hand in parts.values() for name in hand]

    assert [len(part) for part in parts.values()] == [10, 8, 6, 12]
    assert len(set(all_images)) == len(all_images)
    assert parts == _shuffled_parts(images, sizes)


def page_of(*results):
    return page(results, entries=entries(), baseline=baseline, budget=asdict(BUDGET))


def test_the_page_summarizes_which_methods_helped():
    text = page_of(
        result("scratch", 0.40), result("kd", 0.45), result("dkd", 0.60), result("nkd", 0.451), result("pkt", 0.2)
    )

    assert "- better: `dkd`\n" in text
    assert "no significant difference: `nkd`\n" in text
    assert "- worse: `pkt`\n" in text
    assert "(`scratch`): `pkt`\n" in text
    assert "`kd, ViT teacher`" in text.partition("## Not measured")[2]


def test_three_seeds_give_a_mean_and_an_interval():
    text = page_of(*(result("kd", top1, seed=seed) for seed, top1 in enumerate((0.44, 0.45, 0.46))))

    assert "45.0 ± 2.5" in text


def test_a_failed_run_is_listed():
    failed = {**result("kd", 0.4), "status": "non_finite_loss", "problem": "it became nan"}

    assert "- kd (seed 0): it became nan" in page_of(result("scratch", 0.4), failed)

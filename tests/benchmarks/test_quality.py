"""The quality benchmark is fair, goes on from where it was, and says what did not help."""

import json
import random
from dataclasses import asdict

import pytest

from benchmarks.photographs import Deal, _dealt
from benchmarks.quality import Bench, Budget, baseline, entries
from benchmarks.quality_page import page
from core.spec import METHODS, parse_job_spec

BUDGET = Budget()
TEACHERS = {
    "cnn": {"architecture": "dla34", "weights": "mdl_cnn"},
    "vit": {"architecture": "vit_tiny_patch16_224", "weights": "mdl_vit"},
}


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path, tmp_path / "results", BUDGET, threads=1, minutes=None)
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


def test_the_best_are_found_by_the_validation_pictures_and_bring_their_baseline(bench):
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
        document = result(name, 1 - validation, validation=validation)  # the test split would say the contrary
        (bench.folder / f"{name}-0.json").write_text(json.dumps(document))

    assert bench._best(0) == {"scratch", "kd", "dkd", "nkd", "dist", "wsld", "manifold", "kd, ViT teacher"}


def test_a_run_that_is_done_is_not_done_again(bench):
    entry = entries()[0]
    (bench.folder / "scratch-0.json").write_text(json.dumps(result("scratch", 0.4)))

    assert bench._read(entry, 0)["test_top1"] == 0.4
    assert bench._read(entry, 1) is None
    bench.budget = Budget(epochs=3)
    assert bench._read(entry, 0) is None


def test_pictures_are_dealt_without_overlap_and_always_alike():
    pictures = {label: [f"train/{label}/{n:02d}.jpg" for n in range(40)] for label in "ab"}
    deal = Deal(train=5, validation=4, pool=3, lessons=6)
    random.seed(1)
    hands = _dealt(pictures, deal)
    everything = [name for hand in hands.values() for name in hand]

    assert [len(hand) for hand in hands.values()] == [10, 8, 6, 12]
    assert len(set(everything)) == len(everything)
    assert hands == _dealt(pictures, deal)


def written(*results):
    return page(results, entries=entries(), baseline=baseline, budget=asdict(BUDGET))


def test_the_page_says_what_helped_and_what_did_not():
    text = written(
        result("scratch", 0.40), result("kd", 0.45), result("dkd", 0.60), result("nkd", 0.451), result("pkt", 0.2)
    )

    assert "- better: `dkd`\n" in text
    assert "told from chance: `nkd`\n" in text
    assert "- worse: `pkt`\n" in text
    assert "(`scratch`): `pkt`\n" in text
    assert "`kd, ViT teacher`" in text.partition("## Not measured")[2]


def test_three_seeds_give_a_mean_and_an_interval():
    text = written(*(result("kd", top1, seed=seed) for seed, top1 in enumerate((0.44, 0.45, 0.46))))

    assert "45.0 ± 2.5" in text


def test_a_run_that_failed_is_not_hidden():
    failed = {**result("kd", 0.4), "status": "non_finite_loss", "problem": "it became nan"}

    assert "- kd (seed 0): it became nan" in written(result("scratch", 0.4), failed)

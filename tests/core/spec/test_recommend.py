"""Recommended methods: every one fits its situation, and measured gains decide over the rules."""

import json
from itertools import product

import pytest

from core.spec import METHODS, gains
from core.spec.costs import relative_cost
from core.spec.examples import example_student, example_teacher
from core.spec.gains import Gain, find_gain, format_gains
from core.spec.methods.auto import AutoParams
from core.spec.parse import parse_job_spec
from core.spec.recommend import MAX_COST, Situation, advice, recommend

FAMILIES = ("cnn", "transformer", "hybrid", "mlp")


def names(**situation):
    defaults = {"teacher": "cnn", "student": "transformer", "num_images": 2_000}
    return [each.method["name"] for each in recommend(Situation(**{**defaults, **situation}))]


@pytest.mark.parametrize(("teacher", "student"), list(product(("none", *FAMILIES), FAMILIES)))
def test_every_recommended_method_is_valid_for_its_situation(teacher, student):
    teachers = [] if teacher == "none" else [example_teacher("cnn" if teacher == "cnn" else "transformer")]
    for labels, same_classes in product((True, False), repeat=2):
        situation = Situation(
            teacher=teacher, student=student, num_images=100, labels=labels, same_classes=same_classes
        )
        found = recommend(situation)
        for each in found:
            document = {"dataset": "ds_x", "teachers": teachers, "student": example_student("cnn")}
            spec = parse_job_spec({**document, "method": each.method})
            assert labels or not spec.method.reads_labels
            assert student in (spec.method.info.needs.student_families or FAMILIES)
        assert bool(found) == (labels or teacher != "none")


def test_the_first_choice_follows_the_rules():
    assert names()[0] == "deit"
    assert names(teacher="transformer")[:2] == ["vitkd", "wttm"]
    assert names(teacher="transformer", compute="small")[0] == "wttm"
    assert names(student="cnn")[0] == "dist"
    assert names(same_classes=False) == ["feature", "agglomerate"]  # four times the step of labels alone
    assert names(same_classes=False, compute="large")[0] == "agglomerate"
    assert set(names(same_classes=False, num_teachers=3)) == {"agglomerate"}
    assert names(labels=False)[0] == "kd"
    assert names(teacher="none")[-1] == "scratch"


def test_expensive_methods_move_behind_the_budget():
    large, small = (names(teacher="transformer", compute=compute) for compute in ("large", "small"))
    expensive = [name for name in large if relative_cost(name) > MAX_COST["small"]]

    assert large.index("manifold") < large.index("kd")
    assert "manifold" in expensive
    assert small == [name for name in large if name not in expensive] + expensive


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Write the measured gains of a CNN teacher and a transformer, as the benchmark does."""

    def write(**points):
        found = [
            Gain(
                method=name,
                teacher="cnn",
                student="transformer",
                points=value,
                over="labels",
                setting="CIFAR-10",
                source="here",
                half_width=1.0,
                is_significant=True,
                kind="measured",
            )
            for name, value in points.items()
        ]
        path = tmp_path / "gains.json"
        path.write_text(format_gains(found))
        monkeypatch.setattr(gains, "MEASURED", path)
        gains._gains.cache_clear()

    yield write
    gains._gains.cache_clear()


def test_measured_gains_decide_over_the_rules(measured):
    measured(kd=6.6, dist=7.2, deit=-1.0)

    assert names()[:2] == ["dist", "kd"]
    assert names()[-1] == "deit"
    (first, *_) = recommend(Situation(teacher="cnn", student="transformer", num_images=2_000))
    assert (first.gain.kind, first.gain.points) == ("measured", 7.2)


def test_published_gains_name_methods_and_their_sources():
    entries = json.loads(gains.PUBLISHED.read_text())

    assert {entry["method"] for entry in entries} <= set(METHODS)
    assert all(entry["source"] and entry["setting"] for entry in entries)
    assert find_gain("wttm", teacher="transformer", student="transformer").kind == "published"
    assert find_gain("scratch", teacher=None, student="cnn") is None


def test_advice_names_more_images_the_assistant_and_the_fine_tuning():
    few, many = (Situation(teacher="cnn", student="cnn", num_images=count) for count in (100, 10**6))
    assert "unlabeled_dataset" in " ".join(advice(few))
    assert advice(many) == []
    assert "assistant" in " ".join(advice(Situation(teacher="cnn", student="transformer", num_images=100)))
    assert "fine-tune" in " ".join(
        advice(Situation(teacher="transformer", student="cnn", num_images=10**6, same_classes=False))
    )


def test_auto_is_valid_in_a_spec_with_and_without_teachers():
    spec = parse_job_spec({"dataset": "ds_x", "student": example_student("cnn"), "method": {"name": "auto"}})

    assert isinstance(spec.method, AutoParams)
    assert not spec.method.reads_labels

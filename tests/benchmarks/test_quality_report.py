"""The page's tables, plot and words follow from the results and their statistics."""

import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from benchmarks.quality.comparisons import NEIGHBORS, families
from benchmarks.quality.forest_plot import Panel, plot
from benchmarks.quality.gains import gains
from benchmarks.quality.plan import Plan
from benchmarks.quality.protocol import FULL
from benchmarks.quality.report import page, write_report
from benchmarks.quality.results import Results

MACHINE = {"processor": "CPU", "cpus": 2, "torch": "2"}
MEANS = {"scratch": 39.0, "kd": 45.0, "dkd": 45.2, "dist": 50.0, "vid": 38.0, "kd, alpha 0.5": 49.0}


@pytest.fixture
def plan(tmp_path):
    return Plan(FULL, Results(tmp_path / "results"))


def add(plan, step, **figures):
    run = plan.run(step)
    result = {"name": run.name, "digest": run.digest, **run.details, "status": "succeeded", "seconds": 180.0}
    plan.results.add(result | {"machine": MACHINE, "validation_top1": 0.4, "parameters": 690_000, **figures})


def add_arm(plan, name, mean, *, track="vit", metric="test_top1", seeds=None, noise=0.5):
    """Add tuning and seeds of an arm; a seed has the same effect on every arm."""
    (arm,) = (arm for arm in plan.arms if (arm.track, arm.name) == (track, name))
    for step in plan.tuning(arm):
        add(plan, step)
    draws = np.random.default_rng(len(name))
    for step in plan.seeds(arm)[:seeds]:
        score = mean + 2 * step.seed + draws.normal(0, noise)
        add(plan, step, **{"test_top1": score / 100, metric: score / 100})


@pytest.fixture
def measured(plan):
    for name, mean in MEANS.items():
        add_arm(plan, name, mean)
    return plan


def text_of(plan):
    return page(plan, families(plan), plot_name="quality.svg")


def test_without_runs_the_page_states_it(plan, tmp_path):
    write_report(plan, tmp_path / "quality.md")
    text = (tmp_path / "quality.md").read_text()

    assert "**No run has been made with this benchmark yet.**" in text
    assert "not trained yet" in text
    assert "## Differences" not in text
    assert not (tmp_path / "quality.svg").exists()
    assert "an earlier, smaller benchmark" in text


def test_words_follow_the_statistics(measured):
    against_kd, against_labels = re.findall(r"Against .*:\n((?:- .*\n)+)", text_of(measured))

    assert against_kd == "- better: `dist`\n- worse: `vid`\n- no difference: `dkd`\n"
    assert against_labels == "- better: `kd`, `dkd`, `dist`\n- worse: none\n- no difference: `vid`\n"


def test_controls_have_sentences_of_their_own(measured):
    text = text_of(measured)

    assert re.search(r"- `kd, alpha 0.5` against `kd`: \*\*\+[34]\.\d ± \d\.\d\*\*, better\n", text)
    assert "`kd, alpha 0.5`" not in text.partition("Against `kd`")[2].partition("Controls")[0]


def test_the_same_difference_is_no_difference_among_many_comparisons(plan):
    add_arm(plan, "scratch", 39.0, noise=1.0)
    add_arm(plan, "kd", 45.0, noise=1.0)
    add_arm(plan, "dkd", 46.9, noise=1.0)
    alone = families(plan)[0].comparison("dkd", "kd")
    for name in ("nkd", "dist", "wsld", "ofa", "tinyvit", "fitnets", "rkd", "crd", "similarity", "pkt", "vid", "mgd"):
        add_arm(plan, name, 45.0, noise=1.0)
    among = families(plan)[0].comparison("dkd", "kd")

    assert among.adjusted > among.p_value
    assert among.adjusted / among.p_value > alone.adjusted / alone.p_value


def test_gains_over_labels_are_written_for_the_recommendations(measured):
    found = {(gain.method, gain.teacher, gain.student): gain for gain in gains(measured, families(measured))}

    assert set(found) == {(name, "cnn", "transformer") for name in ("kd", "dkd", "dist", "vid")}
    gain = found["dist", "cnn", "transformer"]
    assert (gain.is_significant, gain.over, gain.kind) == (True, "labels", "measured")
    assert 9 < gain.points < 13
    assert "5 seeds" in gain.setting


def test_a_row_has_its_mean_spread_and_rate(measured):
    row = next(line for line in text_of(measured).splitlines() if line.startswith("| `dist`"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]

    assert cells[1] == "cnn"
    assert re.fullmatch(r"5\d\.\d \(SD \d\.\d\)", cells[2])
    assert cells[3:5] == ["5", "0.0005"]  # all rates are alike on the validation images: the lowest
    assert re.fullmatch(r"\*\*\+\d+\.\d ± \d\.\d\*\*", cells[5])
    assert cells[7:] == ["40.0", "0.69 M"]


def test_a_single_seed_is_listed_but_not_compared(plan):
    for name in ("scratch", "kd"):
        add_arm(plan, name, MEANS[name])
    add_arm(plan, "dkd", 60.0, seeds=1, noise=0)
    text = text_of(plan)

    assert re.search(r"\| `dkd` \| cnn \| 60\.0 \| 1 \|", text)
    assert "`dkd`" not in text.partition("Against `kd`")[2].partition("## Not")[0]


def test_a_student_without_a_classifier_is_compared_by_neighbors(plan):
    for name in ("scratch", "kd", "feature"):
        add_arm(plan, name, 40.0, metric=NEIGHBORS)
    found = {family.metric: family for family in families(plan)}

    assert "feature" not in {row.arm.name for row in found["test_top1"].rows}
    assert {each.arm for each in found[NEIGHBORS].comparisons} == {"feature"}
    assert "nearest neighbors" in text_of(plan)


def test_failed_and_missing_runs_are_listed(measured):
    arm = next(arm for arm in measured.arms if (arm.track, arm.name) == ("vit", "nkd"))
    add(measured, measured.tuning(arm)[0], status="non_finite_loss", problem="it became nan")
    text = text_of(measured)

    assert "- `vit-nkd-tune-0.0005`: non_finite_loss, it became nan" in text
    missing = text.partition("## Not measured yet")[2]
    assert "`nkd`" in missing
    assert "`dist`" not in missing.partition("CNN student")[0]


def test_the_plot_marks_significance(measured, tmp_path):
    write_report(measured, tmp_path / "quality.md")
    root = ET.parse(tmp_path / "quality.svg").getroot()
    texts = ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]

    assert "dist − kd" in texts
    assert any(text.endswith("better") for text in texts)
    assert any(text.endswith("no difference") for text in texts)
    assert "![Differences with 95 % intervals](quality.svg)" in (tmp_path / "quality.md").read_text()


def test_a_plot_without_comparisons_is_empty():
    assert "<circle" not in plot([Panel("nothing", [])])

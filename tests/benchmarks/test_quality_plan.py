"""The plan has every method, tunes all arms alike, and puts first what others depend on."""

import json
from dataclasses import replace

import pytest

from benchmarks.cifar10 import DATASETS, POOL, STUDENTS, STUDENTS_90, TEACHERS, SplitSizes, split_names
from benchmarks.quality.arms import arms, teacher_families
from benchmarks.quality.estimate import Estimate
from benchmarks.quality.plan import Plan, _enabled
from benchmarks.quality.protocol import FULL, QUICK
from benchmarks.quality.results import CRASHED, Results
from core.spec import METHODS, parse_job_spec
from core.spec.methods import Requirements


@pytest.fixture
def plan(tmp_path):
    return Plan(FULL, Results(tmp_path))


def finish(plan, step, *, validation=0.4, status="succeeded", **more):
    """Add the result of a step."""
    run = plan.run(step)
    result = {"name": run.name, "digest": run.digest, **run.details, "status": status, "seconds": 100.0, **more}
    plan.results.add(result | ({"validation_top1": validation} if status == "succeeded" else {"problem": "nan"}))


def arm_of(plan, name, track="vit"):
    return next(arm for arm in plan.arms if (arm.track, arm.name) == (track, name))


def test_every_method_is_an_arm():
    found = arms(FULL)
    names = [(arm.track, arm.name) for arm in found]

    assert {arm.method for arm in found if arm.kind in {"method", "kd"}} == set(METHODS)
    assert len(set(names)) == len(names)
    assert len({arm.key for arm in found}) == len(found)
    assert all((arm.track, arm.baseline) in names for arm in found if arm.baseline)


def test_a_new_method_needs_no_entry(monkeypatch):
    monkeypatch.setitem(METHODS, "new", METHODS["vid"])

    found = {arm.track: arm for arm in arms(FULL) if arm.name == "new"}

    assert set(found) == {"vit", "cnn"}
    assert {(arm.teachers, arm.baseline) for arm in found.values()} == {(("cnn",), "kd")}


@pytest.mark.parametrize(
    ("needs", "families"),
    [
        (Requirements(), ("cnn",)),
        (Requirements(max_teachers=0), ()),
        (Requirements(teacher=()), ()),
        (Requirements(teacher=("logits", "attentions")), ("transformer",)),
        (Requirements(teacher_families=("transformer", "hybrid")), ("transformer",)),
        (Requirements(min_teachers=2, max_teachers=None), ("cnn", "transformer")),
    ],
)
def test_requirements_select_the_teachers(needs, families):
    assert teacher_families(needs) == families


def test_all_arms_of_a_track_have_the_same_student_and_training():
    for track in FULL.tracks:
        of_track = [arm for arm in arms(FULL) if arm.track == track and arm.unlabeled is None]
        documents = [arm.document(FULL, learning_rate=1e-3, seed=3) for arm in of_track]
        specs = [parse_job_spec(document) for document in documents]

        assert {(spec.training.epochs, spec.training.seed) for spec in specs} == {(FULL.tracks[track].epochs, 3)}
        assert len({spec.training.model_dump_json() for spec in specs}) == 1
        assert len({json.dumps(spec.student.arguments) for spec in specs}) == 1
        assert {spec.dataset for spec in specs} <= {STUDENTS, STUDENTS_90}


def test_an_arm_with_unlabeled_images_has_as_many_steps(plan):
    arm = arm_of(plan, "kd, unlabeled pool")
    spec = parse_job_spec(arm.document(FULL, learning_rate=1e-3, seed=3))
    num_images = FULL.sizes.train + FULL.sizes.pool

    assert (spec.dataset, spec.unlabeled_dataset) == (STUDENTS, POOL)
    assert spec.training.epochs * num_images == pytest.approx(80 * FULL.sizes.train, rel=0.03)


def test_a_step_comes_after_what_it_needs(plan):
    position = {step.name: index for index, step in enumerate(plan.steps)}

    assert len(position) == len(plan.steps)
    for step in plan.steps:
        if step.arm is None:
            continue
        assert all(position[f"teacher-{name}"] < position[step.name] for name in step.arm.teachers)
        if not step.is_tuning:
            assert all(position[tuned.name] < position[step.name] for tuned in plan.tuning(step.arm))
        if step.arm.needs_trained_student and not step.is_tuning:
            assert position[f"vit-scratch-seed-{step.seed}"] < position[step.name]


def test_the_most_important_runs_are_first(plan):
    tracks = ("vit", "cnn")
    first = [step for step in plan.steps if step.arm is not None][: 5 * 3 + 3 * 5 + 2 * 3]
    later = [step.name for step in plan.steps if step not in first]

    assert plan.steps[0].name == "teacher-cnn"
    assert {step.arm.name for step in first} == {"scratch", "kd", "deit"}
    assert not [name for name in later for track in tracks if name.startswith(f"{track}-scratch-seed")]
    third, fourth = (next(i for i, s in enumerate(plan.steps) if s.name == f"vit-dkd-seed-{n}") for n in (2, 3))
    between = {step.arm.track for step in plan.steps[third:fourth] if step.arm}
    assert "cnn" in between  # every arm has three seeds before any other gets its fourth


def test_every_arm_is_tuned_alike(plan):
    for arm in plan.arms:
        assert [(step.learning_rate, step.seed) for step in plan.tuning(arm)] == [
            (rate, FULL.tuning_seed) for rate in FULL.learning_rates
        ]
        assert {plan.run(step).document["training"]["epochs"] for step in plan.tuning(arm) if plan.run(step)} <= {
            FULL.tracks[arm.track].epochs // 2 if arm.unlabeled is None else FULL.epochs_with_pool(40)
        }
    assert FULL.tuning_seed >= max(track.seeds for track in FULL.tracks.values())


def test_the_learning_rate_is_chosen_on_the_validation_images(plan):
    arm = arm_of(plan, "dkd")
    first, *others = plan.tuning(arm)
    finish(plan, first, validation=0.43)
    assert plan.run(plan.seeds(arm)[0]) is None
    for step, validation in zip(others, (0.45, 0.44), strict=True):
        finish(plan, step, validation=validation)

    run = plan.run(plan.seeds(arm)[0])
    assert run.document["training"]["learning_rate"] == others[0].learning_rate
    assert run.is_tested
    assert not any(plan.run(step).is_tested for step in plan.tuning(arm))


def test_a_rate_that_fails_is_not_chosen_and_an_arm_that_always_fails_has_no_seeds(plan):
    arm, other = arm_of(plan, "dkd"), arm_of(plan, "nkd")
    for step in plan.tuning(arm):
        finish(plan, step, status="non_finite_loss")
    first, *failing = plan.tuning(other)
    finish(plan, first)
    for step in failing:
        finish(plan, step, status="non_finite_loss")

    assert plan.learning_rate(other) == first.learning_rate
    assert not {step.name for step in plan.pending()} & {step.name for step in plan.seeds(arm)}
    assert {step.name for step in plan.seeds(other)} <= {step.name for step in plan.pending()}


def test_a_finished_run_is_not_repeated_unless_its_spec_changes(plan, tmp_path):
    step = plan.tuning(arm_of(plan, "kd"))[0]
    finish(plan, step)

    assert step not in Plan(FULL, Results(tmp_path)).pending()
    longer = replace(FULL, tracks={**FULL.tracks, "vit": replace(FULL.tracks["vit"], epochs=90)})
    assert step.name in {pending.name for pending in Plan(longer, Results(tmp_path)).pending()}


def test_another_teacher_outdates_the_runs_that_use_it(plan, tmp_path):
    kd, scratch = plan.tuning(arm_of(plan, "kd"))[0], plan.tuning(arm_of(plan, "scratch"))[0]
    for step in (kd, scratch):
        finish(plan, step)
    cnn = FULL.teachers["cnn"]
    longer = {**cnn, "training": {**cnn["training"], "epochs": 30}}
    names = {
        step.name
        for step in Plan(replace(FULL, teachers={**FULL.teachers, "cnn": longer}), Results(tmp_path)).pending()
    }

    assert kd.name in names
    assert scratch.name not in names


def test_a_crashed_run_is_tried_again_by_the_next_start(plan, tmp_path):
    step = plan.tuning(arm_of(plan, "kd"))[0]
    finish(plan, step, status=CRASHED)

    assert step not in plan.pending()
    assert step in Plan(FULL, Results(tmp_path)).pending()


def test_only_selects_arms_with_what_they_need(plan):
    names = {step.name for step in plan.pending(["uvc"])}

    assert {"vit-uvc-seed-0", "vit-uvc-tune-0.001", "vit-scratch-seed-4", "vit-scratch-tune-0.001"} <= names
    assert not [name for name in names if name.startswith(("vit-kd", "cnn", "teacher"))]
    assert {"teacher-cnn", "teacher-vit"} <= {step.name for step in plan.pending(["manifold"])}


def test_a_pruned_student_starts_from_the_best_scratch_of_its_seed(plan):
    scratch, uvc = arm_of(plan, "scratch"), arm_of(plan, "uvc")
    for step, validation in zip(plan.tuning(scratch), (0.3, 0.4, 0.35), strict=True):
        finish(plan, step, validation=validation)
    for step in plan.tuning(uvc):
        assert plan.run(step).models == {"job_scratch": "vit-scratch-tune-0.001"}
        finish(plan, step)

    assert plan.run(plan.seeds(uvc)[3]).models == {"job_scratch": "vit-scratch-seed-3"}
    assert plan.run(plan.seeds(scratch)[3]).saves_weights


def test_the_estimate_follows_measured_runs(plan):
    scratch = arm_of(plan, "scratch")
    before = Estimate(plan).seconds(plan.seeds(arm_of(plan, "dkd"))[0])
    assert Estimate(plan).lines((), workers=2)[-1].startswith(f" {len(plan.steps)} runs")
    finish(plan, plan.tuning(scratch)[0], seconds=2_000.0)

    after = Estimate(plan)
    assert after.seconds(plan.tuning(scratch)[1]) == 2_000.0
    assert after.seconds(plan.seeds(scratch)[0]) == 4_000.0  # twice the epochs
    assert after.seconds(plan.seeds(arm_of(plan, "dkd"))[0]) > 5 * before


def test_the_rehearsal_has_the_same_arms():
    assert [arm.key for arm in arms(QUICK)] == [arm.key for arm in arms(FULL)]
    for arm in arms(QUICK):
        parse_job_spec(arm.document(QUICK, learning_rate=1e-3, seed=0))


def test_images_are_split_without_overlap_and_reproducibly():
    images = {label: [f"train/{label}/{n:02d}.jpg" for n in range(60)] for label in "ab"}
    sizes = SplitSizes(train=100, validation=200, assistant=110, pool=120)
    parts = split_names(images, sizes)

    assert {name: len(part) for name, part in parts.items() if name != "validation"} == {
        "ds_students": 20, "ds_students_90": 18, "ds_assistant": 22, "ds_pool": 24, "ds_teachers": 80, "ds_final": 20,
    }  # fmt: skip
    assert not set(parts["validation"]) & {name for dataset in DATASETS for name in parts[dataset]}
    assert len({*parts[STUDENTS], *parts["ds_assistant"], *parts[POOL]}) == 20 + 22 + 24
    assert {*parts[STUDENTS], *parts["ds_assistant"], *parts[POOL]} <= set(parts[TEACHERS])
    assert set(parts[STUDENTS_90]) < set(parts[STUDENTS])
    assert parts == split_names(images, sizes)
    fewer = split_names(images, replace(sizes, teachers=150))[TEACHERS]
    assert fewer == [*parts[TEACHERS][:15], *parts[TEACHERS][40:55]]


def test_an_option_that_is_off_does_not_change_the_digest_of_a_run():
    document = {"seed": 0, "training": {"ema": None, "epochs": 2}, "export": [], "rates": [0.0, {"exact": False}]}

    assert _enabled(document) == {"seed": 0, "training": {"epochs": 2}, "rates": [0.0, {}]}

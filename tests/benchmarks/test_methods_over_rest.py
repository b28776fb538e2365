"""The benchmark tries every method, with both families where a method takes them."""

from benchmarks.methods_over_rest import VARIANTS, Row, _relate, _table, trials
from core.spec import METHODS, parse_job_spec

IDS = {"digits": "ds_digits", "pool": "ds_other", "trained": "job_trained"}


def all_trials():
    return list(trials(list(METHODS), IDS, second_pairs=True))


def test_every_method_is_tried_once_at_least_and_must_not_fail():
    needed = [trial.document["method"]["name"] for trial in all_trials() if not trial.optional]

    assert set(needed) == set(METHODS)
    assert len(needed) == len(METHODS) + len(VARIANTS)


def test_every_trial_is_a_job_spec():
    for trial in all_trials():
        assert parse_job_spec(trial.document).training.epochs == 1, trial.label


def test_a_method_that_names_no_family_is_tried_with_both():
    pairs = [(trial.student, trial.teachers) for trial in all_trials() if trial.label == "kd"]

    assert pairs == [("transformer", ("transformer",)), ("cnn", ("cnn",))]


def test_a_method_of_one_family_keeps_it():
    assert {trial.student for trial in all_trials() if trial.label == "cross_architecture"} == {"cnn"}
    assert {trial.student for trial in all_trials() if trial.label == "deit"} == {"transformer"}


def test_steps_are_compared_with_plain_training_of_the_same_student():
    rows = [
        Row("scratch", "transformer", (), "succeeded", step_seconds=0.1),
        Row("scratch", "cnn", (), "succeeded", step_seconds=0.4),
        Row("kd", "cnn", ("cnn",), "succeeded", step_seconds=0.6),
    ]
    _relate(rows)

    assert [round(row.relative, 2) for row in rows] == [1.0, 1.0, 1.5]
    assert "1.50" in _table(rows).splitlines()[-1]


def test_only_a_second_pair_may_be_refused():
    assert Row("kd", "cnn", (), "refused").failed
    assert not Row("kd", "cnn", (), "refused", optional=True).failed
    assert Row("kd", "cnn", (), "failed", optional=True).failed

"""The benchmark runs every method, with both families where a method accepts them."""

from benchmarks.methods_over_rest import VARIANTS, Row, trials
from core.spec import METHODS, parse_job_spec

IDS = {"digits": "ds_digits", "pool": "ds_other", "trained": "job_trained"}


def all_trials():
    return list(trials(list(METHODS), IDS, second_pairs=True))


def test_every_method_has_a_trial_that_must_succeed():
    needed = [trial.document["method"]["name"] for trial in all_trials() if not trial.optional]

    assert set(needed) == set(METHODS)
    assert len(needed) == len(METHODS) + len(VARIANTS)


def test_every_trial_is_a_job_spec():
    for trial in all_trials():
        assert parse_job_spec(trial.document).training.epochs == 1, trial.label


def test_a_method_without_required_families_is_tried_with_both():
    pairs = [(trial.student, trial.teachers) for trial in all_trials() if trial.label == "kd"]

    assert pairs == [("transformer", ("transformer",)), ("cnn", ("cnn",))]


def test_a_method_with_a_required_family_keeps_it():
    assert {trial.student for trial in all_trials() if trial.label == "cross_architecture"} == {"cnn"}
    assert {trial.student for trial in all_trials() if trial.label == "deit"} == {"transformer"}


def test_only_an_optional_pair_may_be_refused():
    assert Row("kd", "cnn", (), "refused").failed
    assert not Row("kd", "cnn", (), "refused", optional=True).failed
    assert Row("kd", "cnn", (), "failed", optional=True).failed

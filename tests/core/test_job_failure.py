"""The one form of a job's error, and what would help."""

import pytest

from core.errors import RunError
from core.job_failure import WORKER_SILENT, FailureCause, TimeBudget, event_fields
from core.spec import parse_job_spec
from core.spec.patch import merge_patch

FAULTS = {"spec", "data", "capacity", "infrastructure", "service"}
FORM = {"code", "message", "fault", "advice", "fix", "log", "machine"}


def spec_of(*, training=None, teacher=None, **changes):
    document = {
        "dataset": "ds_x",
        "teachers": [{"architecture": "resnet18", "weights": "train", "training": teacher or {}}],
        "student": {"architecture": "vit_tiny_patch16_224"},
        "method": {"name": "kd"},
        "training": training or {},
        **changes,
    }
    return parse_job_spec(document).model_dump(mode="json")


def error(code, spec=None, stage="distill", fraction=0.5, **more):
    return FailureCause(code, "what happened", "service", **more).to_error(
        spec=spec or spec_of(), stage=stage, fraction=fraction
    )


def fixed(code, spec, **more):
    """The spec with the fix applied: valid, as anything that somebody sends."""
    return parse_job_spec(merge_patch(spec, error(code, spec, **more)["fix"]))


def test_every_error_that_can_end_a_job_says_whose_fault_it_is():
    kinds = [RunError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())

    assert {kind.fault for kind in kinds} == FAULTS


def test_every_error_has_the_same_form():
    assert set(error("internal_error")) == FORM
    assert set(WORKER_SILENT.to_error(spec={}, stage=None, fraction=0.0)) == FORM


@pytest.mark.parametrize("code", ["worker_lost", "stalled", "storage_failed", "internal_error"])
def test_where_no_change_of_the_spec_is_known_to_help_there_is_advice(code):
    told = error(code)

    assert told["fix"] is None
    assert "retry" in told["advice"]


def test_the_log_of_the_job_carries_an_error_without_what_takes_room():
    told = FailureCause("stalled", "it hung", "service", log=["a", "b"], machine={"disk_free_bytes": 1})

    short = event_fields(told.to_error(spec=spec_of(), stage=None, fraction=0.0))

    assert set(short) == {"code", "message", "fault", "advice", "fix"}


def test_out_of_memory_halves_the_batch_and_keeps_the_learning_rate():
    told = error("out_of_memory", spec_of(training={"batch_size": 129}))

    assert told["fix"] == {"training": {"batch_size": 64}}
    assert "keeps the learning rate" in told["advice"]


def test_out_of_memory_while_a_teacher_learns_halves_its_batch_alone():
    spec = spec_of(training={"batch_size": 32}, teacher={"batch_size": 100})

    halved = fixed("out_of_memory", spec, stage="teacher")

    assert (halved.training.batch_size, halved.teachers[0].training.batch_size) == (32, 50)


def test_out_of_memory_in_the_first_steps_halves_the_students_batch_and_no_teachers_is_larger():
    halved = fixed("out_of_memory", spec_of(training={"batch_size": 64}, teacher={"batch_size": 128}), stage="prepare")

    assert (halved.training.batch_size, halved.teachers[0].training.batch_size) == (32, 32)


def test_a_batch_of_one_or_of_one_each_device_gets_no_smaller():
    assert error("out_of_memory", spec_of(training={"batch_size": 1}))["fix"] is None
    shared = spec_of(training={"batch_size": 4}, resources={"devices": 4})
    assert error("out_of_memory", shared)["fix"] is None


def test_out_of_memory_at_the_export_leaves_out_what_can_be():
    assert error("out_of_memory", stage="export")["fix"] == {"export": ["safetensors"]}
    assert error("out_of_memory", spec_of(export=["safetensors"]), stage="export")["fix"] is None
    assert error("out_of_memory", stage="evaluate")["fix"] is None


def test_a_loss_that_is_not_finite_is_tried_with_a_third_of_the_rate():
    slower = fixed("non_finite_loss", spec_of(training={"learning_rate": 0.3}))

    assert slower.training.learning_rate == 0.1


def test_a_rate_that_falls_below_its_least_takes_that_along():
    spec = spec_of(training={"learning_rate": 2e-5, "min_learning_rate": 1e-5})

    slower = fixed("non_finite_loss", spec)

    assert slower.training.learning_rate == slower.training.min_learning_rate == 6.67e-6


def test_a_teachers_loss_that_is_not_finite_slows_the_teacher_alone():
    slower = fixed("non_finite_loss", spec_of(teacher={"learning_rate": 0.3}), stage="teacher")

    assert (slower.teachers[0].training.learning_rate, slower.training.learning_rate) == (0.1, 1e-3)


def test_a_first_loss_that_is_not_finite_is_not_blamed_on_the_rate():
    assert error("non_finite_loss", stage="prepare")["fix"] is None


def test_a_longer_time_limit_is_one_that_would_do():
    told = error("time_limit", fraction=0.1, time_budget=TimeBudget(used_seconds=60.0, limit_seconds=60.0))

    assert told["fix"] == {"resources": {"max_seconds": 720.0}}
    assert error("time_limit", fraction=0.0, time_budget=TimeBudget(60.0, 60.0))["fix"] == {
        "resources": {"max_seconds": 120.0}
    }


def test_no_fix_goes_beyond_what_the_service_lets_a_job_run():
    below = error(
        "time_limit", fraction=0.1, time_budget=TimeBudget(used_seconds=60.0, limit_seconds=60.0, max_seconds=600.0)
    )
    at = error(
        "time_limit", fraction=0.1, time_budget=TimeBudget(used_seconds=600.0, limit_seconds=600.0, max_seconds=600.0)
    )

    assert below["fix"] == {"resources": {"max_seconds": 600.0}}
    assert at["fix"] is None
    assert "POTSTILL_MAX_JOB_SECONDS" in at["advice"]

"""The format of a job's error, its advice and its fix."""

import pytest

import core.outbound_errors  # noqa: F401 - its errors are listed below
from core import errors
from core.errors import RunError
from core.job_failure import WORKER_SILENT, FailureCause, TimeBudget, event_fields
from core.spec import METHODS, parse_job_spec
from core.spec.patch import merge_patch
from core.spec.revision import apply_patch

LABEL_FREE = next(name for name, entry in METHODS.items() if entry.params.info.needs.headless)
FAULTS = {"spec", "data", "capacity", "infrastructure", "service"}
FIELDS = {"code", "message", "fault", "retryable", "advice", "fix", "log", "machine"}


def make_spec(*, training=None, teacher=None, **changes):
    document = {
        "dataset": "ds_x",
        "teachers": [{"architecture": "resnet18", "weights": "train", "training": teacher or {}}],
        "student": {"architecture": "vit_tiny_patch16_224"},
        "method": {"name": "kd"},
        "training": training or {},
        **changes,
    }
    return parse_job_spec(document).model_dump(mode="json")


def error(code, spec=None, stage="distill", fraction=0.5, fault="service", has_checkpoint=True, **more):
    return FailureCause(code, "what happened", fault, **more).to_error(
        spec=spec or make_spec(), stage=stage, fraction=fraction, has_checkpoint=has_checkpoint
    )


def apply_fix(code, spec, **more):
    """Return the spec with the fix applied; raises if it is invalid."""
    return parse_job_spec(merge_patch(spec, error(code, spec, **more)["fix"]))


def test_every_run_error_has_a_fault():
    classes = [RunError]
    for class_ in classes:
        classes.extend(class_.__subclasses__())

    assert {class_.fault for class_ in classes} == FAULTS


def test_what_spec_or_data_cause_happens_again():
    classes = [RunError]
    for class_ in classes:
        classes.extend(class_.__subclasses__())
    final = {class_.__name__ for class_ in classes if not class_.retryable}

    assert {class_.__name__ for class_ in classes if class_.fault == "spec"} <= final
    assert {class_.__name__ for class_ in classes if class_.fault == "infrastructure"} - final == {
        "StorageFailed", "WorkerLost", "HubUnreachable", "OutboundFailed", "TrackingUnavailable", "PushUnavailable",
    }  # fmt: skip
    assert {"WeightsMismatch", "DatasetRejected", "TimeLimitReached", "ExportMismatch", "StoredFileDamaged"} <= final


CODES = sorted(
    {code for code in vars(errors).values() if isinstance(code, type) and issubclass(code, RunError)}, key=str
)


@pytest.mark.parametrize("class_", CODES)
@pytest.mark.parametrize("has_checkpoint", [True, False])
def test_advice_offers_no_retry_that_cannot_help_and_no_checkpoint_that_is_not_there(class_, has_checkpoint):
    failure = error(class_.code, fault=class_.fault, retryable=class_.retryable, has_checkpoint=has_checkpoint)

    assert failure["retryable"] == class_.retryable
    assert failure["advice"]
    assert ("resumes from the last checkpoint" in failure["advice"]) == (class_.retryable and has_checkpoint)
    if not class_.retryable:
        assert "retry" not in failure["advice"].lower()


@pytest.mark.parametrize(("weights", "models"), [("random", "student"), ("train", "teachers")])
@pytest.mark.parametrize("retryable", [True, False])
def test_unavailable_weights_are_replaced_by_the_fix(weights, models, retryable):
    pretrained = {"architecture": "resnet34.a1_in1k", "weights": "pretrained"}
    spec = make_spec(**{models: pretrained if models == "student" else [pretrained]})
    failure = error("weights_unavailable", spec, retryable=retryable, architecture="resnet34.a1_in1k")
    fixed = apply_patch(spec, failure["fix"])

    assert (fixed.student if models == "student" else fixed.teachers[0]).weights == weights
    assert "resnet34.a1_in1k" in failure["advice"]


def test_a_teacher_without_labels_is_not_trained_by_a_fix():
    teacher = {"architecture": "vit_base_patch16_224", "weights": "pretrained"}
    spec = make_spec(teachers=[teacher], method={"name": LABEL_FREE})

    assert error("weights_unavailable", spec, architecture=teacher["architecture"])["fix"] is None


@pytest.mark.parametrize("code", ["spec_cannot_run", "export_mismatch", "internal_error"])
def test_a_format_that_fails_is_left_out_by_the_fix(code):
    assert error(code, stage="export", retryable=False)["fix"] == {"export": ["safetensors"]}


def test_every_error_has_the_same_form():
    assert set(error("internal_error")) == FIELDS
    assert set(WORKER_SILENT.to_error(spec={}, stage=None, fraction=0.0, has_checkpoint=False)) == FIELDS


@pytest.mark.parametrize("code", ["worker_lost", "stalled", "storage_failed", "internal_error"])
def test_failures_without_a_fix_have_advice(code):
    failure = error(code)

    assert failure["fix"] is None
    assert "retry" in failure["advice"]


def test_events_omit_the_large_fields_of_an_error():
    failure = FailureCause("stalled", "it hung", "service", log=["a", "b"], machine={"disk_free_bytes": 1})

    fields = event_fields(failure.to_error(spec=make_spec(), stage=None, fraction=0.0, has_checkpoint=False))

    assert set(fields) == {"code", "message", "fault", "retryable", "advice", "fix"}


def test_out_of_memory_halves_the_batch_and_keeps_the_learning_rate():
    failure = error("out_of_memory", make_spec(training={"batch_size": 129}))

    assert failure["fix"] == {"training": {"batch_size": 64}}
    assert "keeps the learning rate" in failure["advice"]


def test_out_of_memory_in_the_teachers_training_halves_only_its_batch():
    spec = make_spec(training={"batch_size": 32}, teacher={"batch_size": 100})

    spec_with_fix = apply_fix("out_of_memory", spec, stage="teacher")

    assert (spec_with_fix.training.batch_size, spec_with_fix.teachers[0].training.batch_size) == (32, 50)


def test_out_of_memory_in_the_preflight_halves_the_students_batch_and_limits_the_teachers():
    spec_with_fix = apply_fix(
        "out_of_memory", make_spec(training={"batch_size": 64}, teacher={"batch_size": 128}), stage="prepare"
    )

    assert (spec_with_fix.training.batch_size, spec_with_fix.teachers[0].training.batch_size) == (32, 32)


def test_the_smaller_batch_has_at_most_as_many_parts_as_images():
    parts = {"batch_size": 8, "gradient_accumulation": 8}

    fixed = apply_fix("out_of_memory", make_spec(training=parts, teacher=parts), stage="prepare")

    assert (fixed.training.batch_size, fixed.training.gradient_accumulation) == (4, 4)
    assert fixed.teachers[0].training.gradient_accumulation == 4


def test_a_batch_of_one_sample_per_device_has_no_fix():
    assert error("out_of_memory", make_spec(training={"batch_size": 1}))["fix"] is None
    shared = make_spec(training={"batch_size": 4}, resources={"devices": 4})
    assert error("out_of_memory", shared)["fix"] is None


def test_out_of_memory_in_the_export_omits_onnx():
    assert error("out_of_memory", stage="export")["fix"] == {"export": ["safetensors"]}
    assert error("out_of_memory", make_spec(export=["safetensors"]), stage="export")["fix"] is None
    assert error("out_of_memory", stage="evaluate")["fix"] is None


def test_a_non_finite_loss_gets_a_third_of_the_learning_rate():
    spec_with_fix = apply_fix("non_finite_loss", make_spec(training={"learning_rate": 0.3}))

    assert spec_with_fix.training.learning_rate == 0.1


def test_a_fix_lowers_the_minimum_learning_rate_if_needed():
    spec = make_spec(training={"learning_rate": 2e-5, "min_learning_rate": 1e-5})

    spec_with_fix = apply_fix("non_finite_loss", spec)

    assert spec_with_fix.training.learning_rate == spec_with_fix.training.min_learning_rate == 6.67e-6


def test_a_teachers_non_finite_loss_changes_only_its_learning_rate():
    spec_with_fix = apply_fix("non_finite_loss", make_spec(teacher={"learning_rate": 0.3}), stage="teacher")

    assert (spec_with_fix.teachers[0].training.learning_rate, spec_with_fix.training.learning_rate) == (0.1, 1e-3)


def test_a_non_finite_loss_in_the_preflight_has_no_fix():
    assert error("non_finite_loss", stage="prepare")["fix"] is None


def test_the_new_time_limit_is_long_enough():
    failure = error("time_limit", fraction=0.1, time_budget=TimeBudget(used_seconds=60.0, limit_seconds=60.0))

    assert failure["fix"] == {"resources": {"max_seconds": 720.0}}
    assert error("time_limit", fraction=0.0, time_budget=TimeBudget(60.0, 60.0))["fix"] == {
        "resources": {"max_seconds": 120.0}
    }


def test_no_fix_exceeds_the_services_time_limit():
    below = error(
        "time_limit", fraction=0.1, time_budget=TimeBudget(used_seconds=60.0, limit_seconds=60.0, max_seconds=600.0)
    )
    at = error(
        "time_limit", fraction=0.1, time_budget=TimeBudget(used_seconds=600.0, limit_seconds=600.0, max_seconds=600.0)
    )

    assert below["fix"] == {"resources": {"max_seconds": 600.0}}
    assert at["fix"] is None
    assert "POTSTILL_MAX_JOB_SECONDS" in at["advice"]

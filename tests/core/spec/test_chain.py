"""Distilled models in a spec: which chains are valid, and their inner jobs."""

import pytest

from core.errors import InvalidSpec
from core.job_warnings import JobWarning
from core.spec import parse_job_spec
from core.spec.chain import distilled_models, inner_job, outer_pointer, outer_warning, reference_of
from core.spec.references import map_models
from core.spec.revision import apply_patch, restart_scope, trains_models
from core.spec.teacher_names import model_name

VIT = {"architecture": "vit_tiny_patch16_224", "arguments": {"patch_size": 4, "depth": 1}}
TRAINED = {"architecture": "resnet10t", "weights": "train", "training": {"epochs": 2}}


def distilled(teachers=(TRAINED,), model=VIT, **more):
    return {
        **model,
        "weights": "distill",
        "distillation": {"teachers": list(teachers), "method": {"name": "kd"}, "training": {"epochs": 3}},
        **more,
    }


def document(**more):
    return {"dataset": "ds_x", "teachers": [distilled()], "student": VIT, "method": {"name": "dist"}, **more}


def errors(**more):
    with pytest.raises(InvalidSpec) as caught:
        parse_job_spec(document(**more))
    return {error.pointer: error.detail for error in caught.value.errors}


def test_a_distilled_model_is_a_job_of_its_own():
    spec = parse_job_spec(document(name="outer", resources={"threads": 2, "devices": 2, "accelerator": "cpu"}))

    (model,) = distilled_models(spec)
    job = inner_job(spec, model, image_size=8)

    assert (model.pointer, model.track) == ("/teachers/0", "teacher-0")
    assert (job.dataset, job.method.name, job.training.epochs, job.training.image_size) == ("ds_x", "kd", 3, 8)
    assert (job.student.architecture, job.student.weights) == ("vit_tiny_patch16_224", "random")
    assert (job.resources.threads, job.resources.devices, job.resources.accelerator) == (2, 1, "cpu")


def test_equal_recipes_have_equal_references():
    def reference(**more):
        spec = parse_job_spec(document(**more))
        return reference_of(inner_job(spec, distilled_models(spec)[0], image_size=8))

    other = distilled()
    other["distillation"] = {**other["distillation"], "method": {"name": "kd", "temperature": 2.0}}

    assert reference() == reference(dataset="ds_y", name="later", priority=3)
    assert reference() != reference(teachers=[other])


@pytest.mark.parametrize(
    ("teacher", "pointer", "fix"),
    [
        ({**VIT, "weights": "distill"}, "/teachers/0/distillation", "weights distill needs it"),
        ({**distilled(), "weights": "train"}, "/teachers/0/weights", "set weights to distill"),
        (distilled(teachers=()), "/teachers/0/distillation/teachers", "add one to teachers"),
        (distilled([distilled([distilled()])]), "/teachers/0/distillation", "run the inner ones as a job"),
        (
            distilled([{**TRAINED, "training": {"epochs": 0}}]),
            "/teachers/0/distillation/teachers/0/training/epochs",
            "at least 1",
        ),
    ],
)
def test_a_chain_that_contradicts_itself_is_refused_with_the_fix(teacher, pointer, fix):
    found = errors(teachers=[teacher])

    assert set(found) == {pointer}
    assert fix in found[pointer]


@pytest.mark.parametrize(
    ("method", "fix"),
    [
        ({"name": "scratch"}, "set the model's weights to train"),
        ({"name": "uvc"}, "run it as a job of its own"),
        ({"name": "mutual", "hold_out": 0.1, "peer": {"architecture": "resnet10t"}}, "run it as a job of its own"),
    ],
)
def test_a_method_that_makes_no_known_model_is_refused(method, fix):
    student = {**distilled(()), "distillation": {"method": method}}

    assert fix in errors(student=student)["/student/distillation/method"]


def test_an_unknown_field_inside_names_its_neighbors():
    teacher = distilled()
    teacher["distillation"]["method"] = {"name": "kd", "temperatur": 2.0}

    detail = errors(teachers=[teacher])["/teachers/0/distillation/method/temperatur"]

    assert "Did you mean temperature?" in detail


def test_models_and_datasets_of_all_levels_are_listed():
    pool = {"name": "attention_probe", "pool": "ds_pool"}
    student = {**distilled(()), "distillation": {"teachers": [{"weights": "mdl_a"}], "method": pool}}
    spec = parse_job_spec(document(student=student, teachers=[distilled([distilled([{"weights": "job_b"}])])]))

    assert list(spec.models()) == [
        "/student",
        "/student/distillation/teachers/0",
        "/teachers/0",
        "/teachers/0/distillation/teachers/0",
        "/teachers/0/distillation/teachers/0/distillation/teachers/0",
    ]
    assert spec.references() == ("mdl_a", "job_b")
    assert spec.datasets() == {"/dataset": "ds_x", "/student/distillation/method/pool": "ds_pool"}
    renamed = map_models(spec, lambda _, model: {"weights": f"{model.weights}!"})
    assert [model.weights for model in renamed.models().values()][1::3] == ["mdl_a!", "job_b!"]


def test_pointers_and_warnings_of_an_inner_job_are_those_of_the_outer_spec():
    pointers = ("/student/arguments/depth", "/method/alpha", "/teachers/1/weights", "/dataset")

    assert [outer_pointer("/teachers/0", pointer) for pointer in pointers] == [
        "/teachers/0/arguments/depth",
        "/teachers/0/distillation/method/alpha",
        "/teachers/0/distillation/teachers/1/weights",
        "/dataset",
    ]
    short = JobWarning(code="few_steps", field="/training/epochs", message="short")
    warning = outer_warning("/teachers/0", model_name("/teachers/0", 2), short)
    assert (warning.field, warning.message) == (
        "/teachers/0/distillation/training/epochs",
        "distillation of teacher 0: short",
    )


def test_a_retry_restarts_the_trainings_of_a_changed_distillation():
    old = parse_job_spec(document(student=distilled())).model_dump(mode="json")
    changed = distilled([{**TRAINED, "training": {"epochs": 2, "batch_size": 32}}])

    inner = apply_patch(old, {"teachers": [{**old["teachers"][0], **changed}]}).model_dump(mode="json")
    base = apply_patch(old, {"student": {"distillation": {"training": {"epochs": 4}}}}).model_dump(mode="json")

    assert restart_scope(old, inner).tracks == ("teacher-0-distill", "teacher-0-teacher-0", "distill")
    assert restart_scope(old, base).tracks == ("student-distill", "student-teacher-0", "distill")
    assert trains_models(old)
    with pytest.raises(InvalidSpec, match="a retry cannot change this"):
        apply_patch(old, {"student": {"distillation": {"method": {"temperature": 2.0}}}})

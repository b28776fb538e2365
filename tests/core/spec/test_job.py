"""The job spec: accepted and refused documents, and the texts of the errors."""

import pytest

from core.errors import InvalidSpec, NotAvailable
from core.spec import METHODS, JobSpec, parse_job_spec
from core.spec.methods import MethodParams

STUDENT = {"architecture": "vit_tiny_patch16_224"}
TEACHER = {"architecture": "resnet18", "weights": "train"}


def spec(**changes):
    return {"dataset": "ds_1", "student": STUDENT, "method": {"name": "scratch"}, **changes}


def errors_of(**changes):
    with pytest.raises(InvalidSpec) as caught:
        parse_job_spec(spec(**changes))
    return {error.pointer: error.detail for error in caught.value.errors}


def test_three_fields_are_required():
    parsed = parse_job_spec(spec())

    assert parsed.training.epochs is None  # the resolver fills it in
    assert parsed.export == ("safetensors", "onnx")
    assert parsed.teachers == ()


def test_a_spec_survives_a_round_trip_through_json():
    parsed = parse_job_spec(spec(method={"name": "deit", "distillation_type": "soft"}, teachers=[TEACHER]))

    assert JobSpec.model_validate_json(parsed.model_dump_json()) == parsed


def test_a_dumped_method_has_its_own_parameters():
    dumped = parse_job_spec(spec(method={"name": "kd", "temperature": 2}, teachers=[TEACHER])).model_dump()

    assert dumped["method"] == {
        "name": "kd",
        "temperature": 2.0,
        "alpha": 0.9,
        "reduction": "sample",
        "teacher_weights": None,
    }


def test_safetensors_are_always_exported():
    assert parse_job_spec(spec(export=["onnx"])).export == ("safetensors", "onnx")


@pytest.mark.parametrize(
    ("changes", "where", "words"),
    [
        ({"training": {"epoch": 3}}, "/training/epoch", "Did you mean epochs"),
        ({"datset": "ds_1"}, "/datset", "Did you mean dataset"),
        ({"method": {"name": "kdd"}}, "/method/name", "Did you mean kd"),
        ({"method": {}}, "/method/name", "name is missing"),
        ({"method": {"name": "attention_probe"}}, "/method/pool", "it is missing; `ds_…`"),
        ({"method": None}, "/method", "an object is expected, not null"),
        ({"method": {"name": "kd", "temprature": 2}}, "/method/temprature", "Did you mean temperature"),
        ({"method": {"name": "kd", "temperature": -1}}, "/method/temperature", "greater than 0"),
        ({"method": {"name": "kd"}}, "/teachers", "needs at least 1 teacher"),
        ({"teachers": [TEACHER]}, "/teachers", "takes at most 0 teacher"),
        ({"student": [1, 2]}, "/student", "an object is expected, not a list"),
        ({"student": {**STUDENT, "weights": "train"}}, "/student/weights", "train is for teachers"),
        ({"student": {**STUDENT, "weights": ""}}, "/student/weights", "at least 1 character"),
        ({"student": {**STUDENT, "arguments": {"num_classes": 3}}}, "/student/arguments", "comes from the dataset"),
        ({"student": {**STUDENT, "arguments": {"pretrained": True}}}, "/student/arguments", "use weights"),
        ({"training": {"epochs": 10**9}}, "/training/epochs", "at most 10000"),
        ({"training": {"learning_rate": float("nan")}}, "/training/learning_rate", "finite"),
        ({"training": {"min_learning_rate": 1.0}}, "/training/min_learning_rate", "must not be above"),
        ({"method": "kd"}, "/method", 'an object is expected, not a string; write {"name": "kd"}'),
        ({"method": {"name": 3}}, "/method/name", "a string is expected, not a number"),
        ({"student": "resnet18"}, "/student", 'write {"architecture": "resnet18"}'),
        ({"teachers": {}}, "/teachers", "a list is expected, not an object"),
        ({"teachers": ["resnet18"]}, "/teachers/0", 'write {"architecture": "resnet18"}'),
        ({"training": {"learning_rate": "1e-3"}}, "/training/learning_rate", "write 1e-3 without quotes"),
        ({"training": {"epochs": 2.5}}, "/training/epochs", "a whole number is expected, not 2.5"),
        ({"training": {"epochs": True}}, "/training/epochs", "a whole number is expected, not a boolean"),
        ({"training": 7}, "/training", "an object is expected, not a number"),
        ({"export": "onnx"}, "/export", "a list is expected, not a string"),
        ({"export": [{"format": "onnx", "opset": 30}]}, "/export/0/opset", "must be at most 23"),
        ({"export": [{"format": "onnx", "opsets": 20}]}, "/export/0/opsets", "Did you mean opset?"),
        ({"export": [{"onnx": {"preprocessing": True}}]}, "/export/0", '{"format": "onnx", "preprocessing": true}'),
        (
            {"export": ["onnx", {"format": "onnx", "preprocessing": True}]},
            "/export",
            "model.onnx would be written for onnx and for onnx (preprocessing true)",
        ),
        (
            {
                "export": [{"format": "onnx", "precision": "fp16"}],
                "compression": [{"name": "quantize", "dtype": "fp16"}],
            },
            "/export",
            "model.fp16.onnx would be written for onnx (precision fp16) and by a step of compression",
        ),
        ({"metadata": {"run": 1}}, "/metadata/run", "a string is expected, not a number"),
        ({"name": "x" * 100_000}, "/name", "at most 200"),
        ({"teachers": [{**TEACHER, "weights": "random", "training": {}}]}, "/teachers/0", "set weights to train"),
        ({"teachers": [{**TEACHER, "training": {"ema": 0.9}}]}, "/teachers/0/training/ema", "unknown field"),
    ],
)
def test_an_error_names_the_field_and_a_fix(changes, where, words):
    assert words in errors_of(**changes)[where]


PYTHON_WORDS = ("dictionary", "tuple", "instance", "integer", "NoneType", "Spec", "Input")


WRONG_VALUES = ({"a": 1}, [[]], 2.5)  # no field of the list below accepts any of these


@pytest.mark.parametrize("value", WRONG_VALUES)
@pytest.mark.parametrize(
    "change",
    [
        lambda value: {"dataset": value}, lambda value: {"student": value}, lambda value: {"teachers": value},
        lambda value: {"method": value}, lambda value: {"training": value}, lambda value: {"export": value},
        lambda value: {"resources": value}, lambda value: {"metadata": value}, lambda value: {"name": value},
        lambda value: {"training": {"epochs": value}}, lambda value: {"training": {"augmentation": value}},
        lambda value: {"method": {"name": "kd", "reduction": value}, "teachers": [TEACHER]},
    ],
)  # fmt: skip
def test_no_message_speaks_of_python(change, value):
    with pytest.raises(InvalidSpec) as caught:
        parse_job_spec(spec(**change(value)))

    assert not [word for word in PYTHON_WORDS if word in caught.value.detail]


@pytest.mark.parametrize("training", [{"learning_rate": 5e-6}, {"learning_rate": 5e-6, "epochs": 3}])
def test_the_default_of_the_lowest_rate_follows_the_learning_rate(training):
    parsed = parse_job_spec(
        spec(training=training, method={"name": "kd"}, teachers=[{**TEACHER, "training": training}])
    )

    assert parsed.training.min_learning_rate == 5e-6
    assert parsed.teachers[0].training.min_learning_rate == 5e-6
    assert parse_job_spec(parsed.model_dump(mode="json")) == parsed


def test_all_errors_are_reported_together():
    assert set(errors_of(training={"epochs": -1, "batch_size": -4}, nonsense=1)) == {
        "/training/epochs",
        "/training/batch_size",
        "/nonsense",
    }


def test_a_job_on_a_cpu_has_at_most_eight_processes():
    assert parse_job_spec(spec(resources={"accelerator": "cpu", "devices": 8})).resources.devices == 8
    assert parse_job_spec(spec(resources={"accelerator": "cuda", "devices": 9})).resources.devices == 9
    with pytest.raises(InvalidSpec, match="at most 8 processes"):
        parse_job_spec(spec(resources={"accelerator": "cpu", "devices": 9}))


def test_references_to_stored_weights_are_listed():
    parsed = parse_job_spec(
        spec(
            method={"name": "kd"},
            student={**STUDENT, "weights": "job_b"},
            teachers=[{"architecture": "resnet18", "weights": "mdl_a"}],
        )
    )

    assert parsed.references() == ("job_b", "mdl_a")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_describes_itself(name):
    params: type[MethodParams] = METHODS[name].params
    schema = params.model_json_schema()

    assert params.info.summary.endswith(".")
    assert params.info.when
    assert all("description" in field for field in schema["properties"].values())
    assert schema["properties"]["name"]["const"] == name


def test_all_datasets_are_listed_by_pointer():
    document = {
        "dataset": "ds_a",
        "teachers": [{"architecture": "vit_tiny_patch16_224"}],
        "student": {"architecture": "vit_tiny_patch16_224"},
    }

    probing = parse_job_spec({**document, "method": {"name": "attention_probe", "pool": "ds_b"}})
    plain = parse_job_spec({**document, "method": {"name": "kd"}})

    assert probing.datasets() == {"/dataset": "ds_a", "/method/pool": "ds_b"}
    assert plain.datasets() == {"/dataset": "ds_a"}


@pytest.mark.parametrize("entry", ["tensorrt", {"format": "coreml"}, "executorch", "litert"])
def test_a_format_that_cannot_be_verified_is_not_available(entry):
    with pytest.raises(NotAvailable, match=r"pip install (tensorrt|coremltools|executorch|litert-torch)") as refusal:
        parse_job_spec(spec(export=["onnx", entry]))

    assert refusal.value.errors[0].pointer == "/export/1"


def test_an_entry_of_export_has_one_spelling():
    options = {"format": "onnx", "preprocessing": True, "precision": "fp32", "opset": 20}
    parsed = parse_job_spec(spec(export=[{"format": "onnx", "preprocessing": True}]))

    assert parsed.model_dump(mode="json")["export"] == ["safetensors", options]
    assert parse_job_spec(parsed.model_dump(mode="json")) == parsed
    assert parse_job_spec(spec(export=[{"format": "onnx"}])).export == ("safetensors", "onnx")

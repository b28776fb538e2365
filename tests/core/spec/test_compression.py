"""Compression steps of a job spec."""

import pytest

from core.errors import InvalidSpec, NotAvailable
from core.spec import parse_job_spec
from core.spec.compression import output_names
from core.spec.compression.quantize import QuantizeParams


def spec(*steps, **changes):
    return {
        "dataset": "ds_a",
        "student": {"architecture": "vit_tiny_patch16_224"},
        "method": {"name": "scratch"},
        "compression": list(steps),
        **changes,
    }


def quantize(**params):
    return {"name": "quantize", **params}


def errors_of(*steps, **changes):
    with pytest.raises(InvalidSpec) as caught:
        parse_job_spec(spec(*steps, **changes))
    return {error.pointer: error.detail for error in caught.value.errors}


def test_a_step_has_defaults_and_survives_a_round_trip():
    parsed = parse_job_spec(spec(quantize(), quantize(dtype="fp16")))

    assert [(step.dtype, step.effective_mode) for step in parsed.compression] == [("int8", "static"), ("fp16", None)]
    assert parsed.compression[0].max_top1_drop == 0.01
    assert parse_job_spec(parsed.model_dump(mode="json")) == parsed


def test_a_tenth_is_held_out_only_with_compression():
    assert parse_job_spec(spec()).held_out_fraction == 0
    assert parse_job_spec(spec(quantize())).held_out_fraction == 0.1
    method = {"name": "mutual", "hold_out": 0.2}
    assert parse_job_spec(spec(quantize(), method=method)).held_out_fraction == 0.2


@pytest.mark.parametrize(
    ("params", "detail"),
    [
        ({"dtype": "fp16", "mode": "static"}, "mode static exists for int8 only"),
        ({"dtype": "int4", "mode": "dynamic"}, "mode dynamic exists for int8 only"),
        ({"dtype": "fp16", "calibration": "entropy"}, "calibration is used with dtype int8 only"),
        ({"mode": "dynamic", "calibration": "entropy"}, "calibration is used with mode static only"),
        ({"mode": "dynamic", "calibration_images": 99}, "calibration_images is used with modes static and qat only"),
        ({"block_size": 64}, "block_size is used with dtype int4 only"),
    ],
)
def test_parameters_without_an_effect_are_refused(params, detail):
    assert detail in errors_of(quantize(**params))["/compression/0"]


@pytest.mark.parametrize(
    ("step", "pointer"),
    [
        ({"name": "quantise"}, "/compression/1/name"),
        ({}, "/compression/1/name"),
        (quantize(dtype="int7"), "/compression/1/dtype"),
        (quantize(bits=8), "/compression/1/bits"),
        (quantize(max_top1_drop=1.5), "/compression/1/max_top1_drop"),
        (quantize(calibration_images=0), "/compression/1/calibration_images"),
        ("quantize", "/compression/1"),
    ],
)
def test_errors_name_the_step_and_the_field(step, pointer):
    assert list(errors_of(quantize(), step)) == [pointer]


def test_an_unknown_field_lists_those_of_the_step():
    assert "max_top1_drop" in errors_of(quantize(max_top_drop=0.1))["/compression/0/max_top_drop"]


def test_what_no_runtime_serves_is_not_available():
    with pytest.raises(NotAvailable, match="set dtype to fp16"):
        parse_job_spec(spec(quantize(dtype="bf16")))


def test_a_backbone_without_a_classifier_has_no_compression():
    teacher = {"architecture": "vit_tiny_patch16_224", "weights": "random"}
    errors = errors_of(quantize(), method={"name": "feature"}, teachers=[teacher])

    assert "without a classifier" in errors["/compression"]


def test_outputs_of_equal_names_are_numbered():
    steps = [QuantizeParams(name="quantize", dtype=dtype) for dtype in ("int8", "fp16", "int8", "int8")]

    assert output_names(steps) == ["model.int8.onnx", "model.fp16.onnx", "model.int8-2.onnx", "model.int8-3.onnx"]


@pytest.mark.parametrize(
    ("step", "pointer", "detail"),
    [
        ({"name": "prune"}, "/compression/0/target", "missing"),
        ({"name": "prune", "target": {}}, "/compression/0/target", "exactly one"),
        ({"name": "prune", "target": {"flops": 0.5, "parameters": 0.5}}, "/compression/0/target", "exactly one"),
        ({"name": "prune", "target": {"flop": 0.5}}, "/compression/0/target/flop", "Did you mean flops"),
        ({"name": "prune", "target": {"flops": 1.5}}, "/compression/0/target/flops", "less than 1"),
        ({"name": "prune", "target": {"latency_ms": 3}, "criterion": "uvc"}, "/compression/0", "budget of FLOPs"),
        ({"name": "share", "repeats": 1}, "/compression/0/repeats", "at least 2"),
        ({"name": "merge", "ratio": 2}, "/compression/0/ratio", "auto"),
    ],
)
def test_parameters_of_other_steps_are_checked(step, pointer, detail):
    assert detail in errors_of(step)[pointer]


def test_a_step_that_changes_the_network_precedes_the_files():
    assert "put merge before quantize" in errors_of(quantize(), {"name": "merge"})["/compression"]

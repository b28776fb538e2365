"""Preflight of the export formats on the untrained student."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from core.errors import ExportFailed, ExportMismatch, StorageFailed
from core.reporting import Control, Interrupted
from core.spec.export_options import ExportOptions
from core.spec.exports import EXPORT_FORMATS, ExportFormat, export_options
from core.train.context import RunContext
from core.train.export_preflight import preflight_formats
from core.train.precision import ComputeConfig

LONG = 3600.0
TOY = ExportOptions(format="toy")
FORMATS = (export_options("safetensors"), TOY)


@pytest.fixture
def toy(monkeypatch):
    """Register a format that counts its calls, draws a random number and raises `error`."""
    toy = SimpleNamespace(error=None, paths=[], modules=[])

    def export(student, context):
        toy.paths.append(context.path)
        toy.modules.append(student.module)
        context.path.write_bytes(b"toy")
        torch.nn.init.zeros_(student.module.head.weight)
        torch.rand(1)
        if toy.error is not None:
            raise toy.error
        return {}

    module = ModuleType("toy_file")
    module.export = export
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(EXPORT_FORMATS, "toy", ExportFormat("model.toy", "text/plain", "toy_file:export", "toy"))
    return toy


@pytest.fixture
def context(make_reporter, tmp_path, pixels, monkeypatch):
    monkeypatch.setattr(RunContext, "sample_images", lambda _self, _size, count: pixels.images[:count])
    (tmp_path / "root").mkdir()
    compute = ComputeConfig(torch.device("cpu"), "fp32")
    return RunContext(None, compute, 1, make_reporter(), tmp_path / "root", tmp_path / "cache")


def run(setup, context, seconds=LONG):
    return preflight_formats(setup, SimpleNamespace(export_options=FORMATS), context, training_seconds=seconds)


def test_a_format_that_fails_gives_a_warning_before_the_training(toy, make_setup, training, context):
    toy.error = ExportFailed("no operator")

    assert run(make_setup(training()), context) == {TOY: "no operator"}

    (warning,) = context.reporter.warnings()
    assert (warning.code, warning.field) == ("export_failed", "/export")
    assert warning.message == "model.toy is left out: no operator"
    assert list(context.root.iterdir()) == []


@pytest.mark.parametrize("error", [None, ExportFailed("no operator")])
def test_each_network_is_tried_once(error, toy, make_setup, training, context, vit):
    toy.error = error
    first = run(make_setup(training()), context)
    toy.error = AssertionError("tried again")

    assert run(make_setup(training(), student=vit(seed=1)), context) == first
    assert len(toy.paths) == 1

    run(make_setup(training(), student=vit(depth=1)), context)
    assert len(toy.paths) == 2


@pytest.mark.parametrize("error", [ExportMismatch("differs by 1"), MemoryError()])
def test_a_failure_that_may_not_repeat_is_no_verdict(error, toy, make_setup, training, context):
    toy.error = error
    setup = make_setup(training())

    assert run(setup, context) == run(setup, context) == {}

    assert len(toy.paths) == 2
    assert context.reporter.warnings() == []


def test_student_and_random_state_do_not_change(toy, make_setup, training, context):
    setup = make_setup(training())
    head = setup.student.module.head.weight.clone()
    state = torch.get_rng_state()

    run(setup, context)

    assert len(toy.paths) == 1
    assert setup.student.module.head.weight.equal(head)
    assert setup.student.module.training
    assert torch.get_rng_state().equal(state)


def test_a_short_training_has_none(toy, make_setup, training, context):
    assert run(make_setup(training()), context, seconds=29.0) == {}

    assert toy.paths == []


def test_a_disk_error_fails_the_job(toy, make_setup, training, context):
    toy.error = OSError(28, "No space left on device")

    with pytest.raises(StorageFailed):
        run(make_setup(training()), context)


def test_a_cancel_request_is_obeyed(toy, make_setup, training, context):
    context.reporter.control_override = Control.CANCEL

    with pytest.raises(Interrupted):
        run(make_setup(training()), context)
    assert toy.paths == []

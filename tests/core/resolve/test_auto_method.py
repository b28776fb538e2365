"""The method ``auto`` is replaced by the first recommended one that the job can run."""

import pytest

from core.errors import InvalidSpec
from core.resolve.resolver import resolve
from core.spec import gains, parse_job_spec
from core.spec.examples import example_student, example_teacher
from core.spec.info import DatasetInfo

LABELED = DatasetInfo(num_classes=3, classes=("a", "b", "c"), image_size=32, num_train=200, num_test=20)
UNLABELED = LABELED.model_copy(update={"num_classes": None, "classes": None})


@pytest.fixture(autouse=True)
def no_measured_gains(tmp_path, monkeypatch):
    """Without measured gains, which change with each run of the benchmark, the rules decide."""
    path = tmp_path / "gains.json"
    path.write_text("[]")
    monkeypatch.setattr(gains, "MEASURED", path)
    gains._gains.cache_clear()
    yield
    gains._gains.cache_clear()


def chosen(student, *teachers, dataset=LABELED, **parameters):
    document = {
        "dataset": "ds_x",
        "student": student,
        "teachers": list(teachers),
        "method": {"name": "auto", **parameters},
        "training": {"image_size": 32, "epochs": 1},
    }
    resolution = resolve(parse_job_spec(document), dataset, {}, threads=1)
    assert resolution.estimate["method"] == resolution.spec.method.model_dump(mode="json")
    return resolution.spec.method.name


def test_the_resolved_spec_names_the_first_method_that_the_networks_can_run():
    cnn, vit = example_student("cnn"), example_student("transformer")

    assert chosen(vit, example_teacher("cnn")) == "deit"
    assert chosen(cnn, example_teacher("cnn")) == "dist"
    assert chosen(cnn) == "self_distillation"


def test_a_choice_that_the_networks_cannot_run_is_skipped():
    swin = {"architecture": "swin_tiny_patch4_window7_224", "arguments": {"embed_dim": 24, "depths": [1, 1]}}

    # Swin has no distillation token, which the first choice, deit, needs.
    assert chosen(swin, example_teacher("cnn")) == "dist"


def test_a_job_with_nothing_to_learn_from_is_refused_with_the_fix():
    with pytest.raises(InvalidSpec) as caught:
        chosen(example_student("cnn"), dataset=UNLABELED)

    assert caught.value.errors[0].pointer == "/method/name"
    assert "add a teacher" in caught.value.errors[0].detail

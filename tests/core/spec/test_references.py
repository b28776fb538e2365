from core.spec import parse_job_spec
from core.spec.info import ModelInfo
from core.spec.references import complete_references

STORED = ModelInfo(
    architecture="vit_tiny_patch16_224",
    arguments={"depth": 2, "embed_dim": 32, "img_size": 8, "num_classes": 10, "in_chans": 3},
    num_classes=10,
    channels=3,
    image_size=8,
    parameters=1,
    size_bytes=4,
)


def spec(student, *teachers):
    return parse_job_spec({"dataset": "ds_x", "student": student, "teachers": list(teachers), "method": {"name": "kd"}})


def test_architecture_and_arguments_are_filled_in_and_those_of_the_dataset_are_not():
    given = spec({"weights": "job_a", "arguments": {"depth": 3, "embed_dim": None}}, {"weights": "mdl_a"})
    completed = complete_references(given, {"job_a": STORED, "mdl_a": STORED})

    assert completed.student.architecture == "vit_tiny_patch16_224"
    assert completed.student.arguments == {"depth": 3, "embed_dim": 32}  # the resolver refuses the 3
    assert completed.teachers[0].arguments == {"depth": 2, "embed_dim": 32}


def test_other_weights_and_missing_models_leave_the_spec_unchanged():
    given = spec({"architecture": "resnet18"}, {"weights": "mdl_a"})

    assert complete_references(given, {}) == given

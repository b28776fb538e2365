import pytest

from core.errors import InvalidSpec
from core.models.arguments import check_arguments, model_arguments, square_size
from core.spec import ModelSpec
from core.spec.info import InputInfo

FACTS = InputInfo(num_classes=7, channels=1, image_size=28)


def test_classes_and_channels_come_from_the_dataset_and_the_size_where_it_is_taken():
    vit = ModelSpec(architecture="vit_tiny_patch16_224", arguments={"depth": 2, "qk_norm": None})

    assert model_arguments(vit, FACTS, 32) == {"depth": 2, "num_classes": 7, "in_chans": 1, "img_size": 32}


def test_a_cnn_is_not_told_the_size():
    assert model_arguments(ModelSpec(architecture="resnet18"), FACTS, 32) == {"num_classes": 7, "in_chans": 1}


def test_two_sizes_that_differ_are_refused():
    vit = ModelSpec(architecture="vit_tiny_patch16_224", arguments={"img_size": [64, 64]})

    with pytest.raises(InvalidSpec, match="differ"):
        model_arguments(vit, FACTS, 32)


@pytest.mark.parametrize(
    ("arguments", "pointer"),
    [
        ({"features_only": True}, "/student/arguments/features_only"),
        ({"a/b~": 10**9}, "/student/arguments/a~1b~0"),
        ({"_x": 1}, "/student/arguments/_x"),
        ({"drop_path_rate": 0.1}, "/student/arguments/drop_path_rate"),
        ({"weight_init": "skip"}, "/student/arguments/weight_init"),
        ({"depth": 10**9}, "/student/arguments/depth"),
        ({"depths": [100, 100, 100]}, "/student/arguments/depths"),
        ({"embed_dim": 10**7}, "/student/arguments/embed_dim"),
        ({"widths": {"a": [1] * 65}}, "/student/arguments/widths"),
    ],
)
def test_what_no_classifier_has_is_refused_where_it_stands(arguments, pointer):
    with pytest.raises(InvalidSpec) as refusal:
        check_arguments(arguments, pointer="/student/arguments")

    assert [error.pointer for error in refusal.value.errors] == [pointer]


@pytest.mark.parametrize("value", ["32", 32.0, True, [32, 64], [32, 32, 32], [[32]], 0, 10**6])
def test_an_image_size_is_one_whole_number(value):
    with pytest.raises(InvalidSpec):
        square_size(value, pointer="/arguments/img_size")


def test_an_image_size_may_be_written_as_two_equal_sides():
    assert square_size([32, 32], pointer="") == square_size(32, pointer="") == 32
    assert square_size(None, pointer="") is None

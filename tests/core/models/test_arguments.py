import pytest

from core.errors import InvalidSpec
from core.models.arguments import check_arguments, model_arguments, square_size
from core.spec import StudentSpec
from core.spec.info import InputInfo

FACTS = InputInfo(num_classes=7, channels=1, image_size=28)


def test_classes_channels_and_size_come_from_the_dataset():
    vit = StudentSpec(architecture="vit_tiny_patch16_224", arguments={"depth": 2, "qk_norm": None})

    assert model_arguments(vit, FACTS, 32) == {"depth": 2, "num_classes": 7, "in_chans": 1, "img_size": 32}


def test_a_cnn_gets_no_image_size():
    assert model_arguments(StudentSpec(architecture="resnet18"), FACTS, 32) == {"num_classes": 7, "in_chans": 1}


def test_two_sizes_that_differ_are_refused():
    vit = StudentSpec(architecture="vit_tiny_patch16_224", arguments={"img_size": [64, 64]})

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
def test_invalid_arguments_are_refused_with_their_pointer(arguments, pointer):
    with pytest.raises(InvalidSpec) as caught:
        check_arguments(arguments, pointer="/student/arguments")

    assert [error.pointer for error in caught.value.errors] == [pointer]


@pytest.mark.parametrize("value", ["32", 32.0, True, [32, 64], [32, 32, 32], [[32]], 0, 10**6])
def test_an_image_size_is_a_positive_integer(value):
    with pytest.raises(InvalidSpec):
        square_size(value, pointer="/arguments/img_size")


def test_an_image_size_may_have_two_equal_sides():
    assert square_size([32, 32], pointer="") == square_size(32, pointer="") == 32
    assert square_size(None, pointer="") is None

import pytest
import torch

from core.models.preprocessing import Preprocessing, normalized, plain_preprocessing


def test_images_of_the_right_shape_are_only_normalized():
    preprocessing = Preprocessing(image_size=4, channels=3, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    images = torch.rand(2, 3, 4, 4)

    expected = torch.stack([(images[:, 0] - 0.1) / 0.5, (images[:, 1] - 0.2) / 0.25, (images[:, 2] - 0.3) / 2], dim=1)
    assert torch.allclose(expected, preprocessing(images))


def test_one_channel_is_repeated_for_a_model_with_three():
    preprocessing = Preprocessing(image_size=4, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)
    images = torch.rand(2, 1, 4, 4)

    assert torch.equal(images.repeat(1, 3, 1, 1), preprocessing(images))


def test_three_channels_are_reduced_to_luminance():
    preprocessing = Preprocessing(image_size=1, channels=1, mean=(0.0,), std=(1.0,))
    images = torch.tensor([1.0, 0.5, 0.25]).view(1, 3, 1, 1)

    assert preprocessing(images).item() == pytest.approx(0.299 + 0.587 / 2 + 0.114 / 4)


@pytest.mark.parametrize("size", [2, 16])
def test_images_are_resized_and_stay_in_range(size):
    preprocessing = Preprocessing(image_size=size, channels=1, mean=(0.0,), std=(1.0,))
    resized = preprocessing((torch.rand(3, 1, 8, 8) > 0.5).float())

    assert resized.shape == (3, 1, size, size)
    assert resized.min() >= 0
    assert resized.max() <= 1


def test_an_image_does_not_depend_on_its_batch():
    preprocessing = plain_preprocessing(image_size=12, channels=3)
    images = torch.rand(5, 3, 8, 8)

    assert torch.equal(preprocessing(images)[3:4], preprocessing(images[3:4]))


def test_statistics_are_fitted_to_the_channels():
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    gray = normalized(*imagenet, image_size=8, channels=1)
    assert gray.mean == pytest.approx((0.485 * 0.299 + 0.456 * 0.587 + 0.406 * 0.114,))
    assert normalized((0.5,), (0.2,), image_size=8, channels=3).std == (0.2, 0.2, 0.2)
    with pytest.raises(ValueError, match="2 normalization values"):
        normalized((0.5, 0.5), (0.2, 0.2), image_size=8, channels=3)


def test_the_config_has_the_preprocessing():
    assert plain_preprocessing(image_size=8, channels=1).to_config() == {
        "input_size": [1, 8, 8],
        "mean": [0.5],
        "std": [0.5],
        "interpolation": "bicubic",
        "crop_pct": 1.0,
    }

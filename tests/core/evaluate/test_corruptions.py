import numpy as np
import pytest
import torch

from core.evaluate.corruptions import CLEAN, CORRUPTIONS, MAX_IMAGES, corrupted_top1, subset_indices


def gradient_images(count=3, channels=3, side=16):
    ramp = np.linspace(0, 255, side, dtype=np.uint8)
    return np.broadcast_to(ramp, (count, channels, side, side)).copy()


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_corruption_changes_images_and_depends_on_image_and_index_alone(name, channels):
    images = gradient_images(channels=channels)
    changed = CORRUPTIONS[name](images, np.array([4, 7, 9]))
    part = CORRUPTIONS[name](images[1:], np.array([7, 9]))

    assert changed.dtype == np.uint8
    assert changed.shape == images.shape
    assert (changed != images).any()
    assert np.array_equal(changed[1:], part)
    assert np.array_equal(images, gradient_images(channels=channels))


def test_strengths_are_those_that_are_documented():
    flat, index = np.full((1, 1, 64, 64), 100, np.uint8), np.array([0])

    assert int(CORRUPTIONS["brightness"](flat, index)[0, 0, 0, 0]) == pytest.approx(100 + 0.3 * 255, abs=0.6)
    noise = CORRUPTIONS["gaussian_noise"](flat, index).astype(float)
    assert noise.mean() == pytest.approx(100, abs=2)
    assert noise.std() == pytest.approx(0.1 * 255, rel=0.05)
    assert np.array_equal(CORRUPTIONS["gaussian_blur"](flat, index), flat)
    ramp = gradient_images(1, 1)
    contrast = CORRUPTIONS["contrast"](ramp, index)
    assert int(contrast.max()) - int(contrast.min()) == pytest.approx(0.3 * 255, abs=1)
    two_images = CORRUPTIONS["gaussian_noise"](np.repeat(flat, 2, axis=0), np.array([0, 1]))
    assert (two_images[0] != two_images[1]).any()


def test_images_of_a_few_pixels_can_be_blurred():
    assert CORRUPTIONS["gaussian_blur"](gradient_images(side=4), np.arange(3)).shape == (3, 3, 4, 4)


def test_a_network_is_evaluated_on_each_kind_and_on_the_same_images_without_it():
    images = np.zeros((600, 1, 8, 8), np.uint8)
    images[::2] = 60  # bright images are of class 1
    labels = torch.tensor([1, 0]).repeat(300)

    def by_brightness(images_BCHW):
        mean = images_BCHW.mean(dim=(1, 2, 3))
        return torch.stack([torch.full_like(mean, 0.15), mean], dim=1)

    top1 = corrupted_top1(by_brightness, images, labels)

    assert list(top1) == [CLEAN, *CORRUPTIONS]
    assert top1[CLEAN] == 1.0
    selected = labels[torch.from_numpy(subset_indices(600))]
    assert top1["brightness"] == pytest.approx(float((selected == 1).double().mean()))


def test_the_subset_is_evenly_spaced_and_bounded():
    assert subset_indices(3).tolist() == [0, 1, 2]
    indices = subset_indices(10_000)
    assert (len(indices), indices[0], indices[-1]) == (MAX_IMAGES, 0, 9_999)
    assert np.diff(indices).max() - np.diff(indices).min() <= 1

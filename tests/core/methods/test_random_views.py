"""Random views of images, and the same transform of features."""

import torch

from core.methods.random_views import RandomViews, Views, affine_transform

CPU = torch.device("cpu")
UPSIDE_DOWN = torch.tensor([[[-1.0, 0, 0], [0, -1, 0]]])


def views(**options):
    return RandomViews(
        **{"probability": 1.0, "max_rotation": 0.0, "min_crop": 1.0, "mask_share": 0.0, **options}, grid=(4, 4)
    )


def test_an_image_with_probability_zero_is_unchanged():
    images = torch.rand(8, 3, 16, 16)

    drawn = views(probability=0.0, max_rotation=90.0, min_crop=0.1, mask_share=0.9).draw(8, CPU)

    torch.testing.assert_close(drawn.apply(images), images)


def test_features_are_transformed_like_the_image():
    features = torch.rand(1, 5, 4, 4)
    image = features.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    turned = Views(UPSIDE_DOWN, torch.ones(1, 1, 4, 4)).apply(image)

    at_centres = turned.unfold(2, 4, 4).unfold(3, 4, 4).mean(dim=(-2, -1))

    torch.testing.assert_close(affine_transform(features, UPSIDE_DOWN), features.flip(2, 3))
    torch.testing.assert_close(at_centres, affine_transform(features, UPSIDE_DOWN))


def test_a_crop_enlarges_a_part_of_the_image():
    torch.manual_seed(0)
    ramp = torch.linspace(0, 1, 32).expand(16, 1, 32, 32)

    shown = views(min_crop=0.5).draw(16, CPU).apply(ramp)

    spread = shown[:, 0, 0, -1] - shown[:, 0, 0, 0]
    assert ((spread > 0.45) & (spread < 1.001)).all()
    assert spread.std() > 0.05


def test_masked_patches_are_gray_and_the_others_unchanged():
    torch.manual_seed(0)
    images = torch.ones(16, 1, 16, 16)

    shown = views(mask_share=0.25).draw(16, CPU).apply(images)

    patches = shown.unfold(2, 4, 4).unfold(3, 4, 4).flatten(4)
    grey = (patches == 0.5).all(dim=-1)
    assert ((patches == 1.0).all(dim=-1) | grey).all()
    assert 0.1 < grey.float().mean() < 0.4

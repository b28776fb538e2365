"""Views of pictures, and features that move with them."""

import torch

from core.methods.random_views import RandomViews, Views, moved

CPU = torch.device("cpu")
UPSIDE_DOWN = torch.tensor([[[-1.0, 0, 0], [0, -1, 0]]])


def views(**options):
    return RandomViews(
        **{"probability": 1.0, "max_rotation": 0.0, "min_crop": 1.0, "mask_share": 0.0, **options}, grid=(4, 4)
    )


def test_a_picture_that_keeps_its_view_stays_as_it_is():
    pictures = torch.rand(8, 3, 16, 16)

    drawn = views(probability=0.0, max_rotation=90.0, min_crop=0.1, mask_share=0.9).draw(8, CPU)

    torch.testing.assert_close(drawn.of(pictures), pictures)


def test_features_turn_with_the_picture():
    features = torch.rand(1, 5, 4, 4)
    picture = features.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    turned = Views(UPSIDE_DOWN, torch.ones(1, 1, 4, 4)).of(picture)

    at_centres = turned.unfold(2, 4, 4).unfold(3, 4, 4).mean(dim=(-2, -1))

    torch.testing.assert_close(moved(features, UPSIDE_DOWN), features.flip(2, 3))
    torch.testing.assert_close(at_centres, moved(features, UPSIDE_DOWN))


def test_a_crop_shows_a_part_of_the_picture_enlarged():
    torch.manual_seed(0)
    ramp = torch.linspace(0, 1, 32).expand(16, 1, 32, 32)

    shown = views(min_crop=0.5).draw(16, CPU).of(ramp)

    spread = shown[:, 0, 0, -1] - shown[:, 0, 0, 0]
    assert ((spread > 0.45) & (spread < 1.001)).all()
    assert spread.std() > 0.05


def test_masked_patches_are_grey_and_the_others_untouched():
    torch.manual_seed(0)
    pictures = torch.ones(16, 1, 16, 16)

    shown = views(mask_share=0.25).draw(16, CPU).of(pictures)

    patches = shown.unfold(2, 4, 4).unfold(3, 4, 4).flatten(4)
    grey = (patches == 0.5).all(dim=-1)
    assert ((patches == 1.0).all(dim=-1) | grey).all()
    assert 0.1 < grey.float().mean() < 0.4

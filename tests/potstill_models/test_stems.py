import pytest
import torch
import torch.nn.functional as F

from potstill_models.stems import CoAdviseStem, ConvStem, Involution


def test_involution_applies_the_kernel_of_each_position_to_its_neighborhood():
    torch.manual_seed(0)
    involution = Involution(32, 3).eval()
    x = torch.randn(2, 32, 5, 4)
    kernels = involution.span(involution.reduce(x)).reshape(2, 2, 1, 9, 20)
    neighbors = F.unfold(x, 3, padding=1).reshape(2, 2, 16, 9, 20)
    expected = (kernels * neighbors).sum(3).reshape(2, 32, 5, 4)

    assert torch.allclose(involution(x), expected, atol=1e-5)


@pytest.mark.parametrize(("img_size", "patch_size"), [(32, 4), (14, 7), (8, 2), (32, 16)])
def test_the_stem_has_the_patches_of_a_patch_embedding(img_size, patch_size):
    stem = CoAdviseStem(img_size=img_size, patch_size=patch_size, in_chans=1, embed_dim=8, bias=True)

    assert stem(torch.randn(2, 1, img_size, img_size)).shape == (2, 2 + (img_size // patch_size) ** 2, 8)
    assert stem.num_patches == (img_size // patch_size) ** 2


@pytest.mark.parametrize("token", [False, True])
@pytest.mark.parametrize(("img_size", "patch_size"), [(32, 4), (14, 7)])
def test_the_convolutional_stem_has_the_patches_of_a_patch_embedding(img_size, patch_size, token):
    stem = ConvStem(img_size=img_size, patch_size=patch_size, in_chans=1, embed_dim=8, bias=True, token=token)

    assert stem(torch.randn(2, 1, img_size, img_size)).shape == (2, token + (img_size // patch_size) ** 2, 8)


@pytest.mark.parametrize(("build", "options"), [(CoAdviseStem, {}), (ConvStem, {"token": True})])
def test_images_of_another_size_are_refused(build, options):
    stem = build(img_size=8, patch_size=4, in_chans=1, embed_dim=8, bias=True, **options)

    with pytest.raises(ValueError, match="8 a side"):
        stem(torch.randn(2, 1, 12, 12))
    with pytest.raises(ValueError, match="multiple"):
        build(img_size=10, patch_size=4, in_chans=1, embed_dim=8, bias=True, **options)

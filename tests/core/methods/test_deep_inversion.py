"""DeepInversion: images inverted from a teacher's weights."""

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

from core.methods.deep_inversion import Inversion, intra_divergence, invert, inverted_pixels, objective, total_variation
from core.models.built import BuiltModel
from core.models.preprocessing import Preprocessing

SHAPE = (1, 16, 16)


class Interrupted(Exception):
    """Raised by a poll to interrupt the run."""


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    arguments = {"num_classes": 4, "in_chans": 1}
    module = timm.create_model("resnet10t", **arguments)
    module.train()
    with torch.no_grad():  # gives the batch norms statistics
        for _ in range(3):
            module(torch.randn(16, *SHAPE))
    preprocessing = Preprocessing(image_size=16, channels=1, mean=(0.4,), std=(0.3,))
    return BuiltModel(module.eval().requires_grad_(requires_grad=False), "resnet10t", arguments, preprocessing)


def quadrants(images):
    """Mean brightness of the four quarters, (B, 4)."""
    return F.adaptive_avg_pool2d(images, 2).flatten(1)


def learn_quadrants(module):
    """Train a network to tell which quarter of an image is bright."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(module.requires_grad_().train().parameters(), lr=3e-3)
    for _ in range(20):
        labels = torch.randint(0, 4, (32,), generator=generator)
        bright = F.one_hot(labels, 4).float().view(32, 1, 2, 2).repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
        images = (0.2 + 0.5 * bright + 0.1 * torch.randn(32, *SHAPE, generator=generator)).clamp(0, 1)
        optimizer.zero_grad()
        F.cross_entropy(module((images - 0.4) / 0.3), labels).backward()
        optimizer.step()
    module.eval().requires_grad_(requires_grad=False)


def no_poll():
    """Poll that never interrupts."""


def test_total_variation_is_the_norm_of_four_differences():
    x = torch.randn(2, 1, 5, 4, generator=torch.Generator().manual_seed(1))
    across = x[:, :, :, :-1] - x[:, :, :, 1:]
    down = x[:, :, :-1] - x[:, :, 1:]
    falling = torch.stack([x[:, :, i, j] - x[:, :, i + 1, j + 1] for i in range(4) for j in range(3)])
    rising = torch.stack([x[:, :, i + 1, j] - x[:, :, i, j + 1] for i in range(4) for j in range(3)])

    expected = sum(part.square().sum().sqrt() for part in (across, down, falling, rising))

    assert total_variation(x).item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_objective_is_the_weighted_sum_of_its_parts(teacher):
    images, labels = torch.rand(6, *SHAPE), torch.arange(6) % 4
    inversion = Inversion(num_images=6, variation=0.3, energy=0.2, statistics=0.1)
    inputs, seen = (images - 0.4) / 0.3, []
    hooks = [
        norm.register_forward_hook(lambda norm, given, _: seen.append((norm, given[0].clone())))
        for norm in teacher.module.modules()
        if isinstance(norm, torch.nn.BatchNorm2d)
    ]
    logits = teacher.module(inputs)
    for hook in hooks:
        hook.remove()

    statistics = 0.0
    for index, (norm, given) in enumerate(seen):
        by_channel = given.transpose(0, 1).flatten(1)
        mean = (by_channel.mean(dim=1) - norm.running_mean).square().sum().sqrt()
        variance = (by_channel.var(dim=1, unbiased=False) - norm.running_var).square().sum().sqrt()
        statistics += (10 if index == 0 else 1) * (mean + variance)
    energy = torch.stack([x.square().sum().sqrt() for x in inputs]).mean()
    expected = F.cross_entropy(logits, labels) + 0.3 * total_variation(inputs) + 0.2 * energy + 0.1 * statistics
    assert len(seen) == 14
    assert objective(teacher, inversion, images, labels).item() == pytest.approx(expected.item(), rel=1e-4)


def test_diversity_penalizes_too_similar_and_too_distant_images_of_a_class():
    embedding = torch.tensor([[1.0, 0.0], [2.0, 0.4], [0.0, 1.0], [-1.0, 3.0], [-1.0, -1.0]])
    labels = torch.tensor([0, 0, 1, 1, 2])  # the last has no second of its class

    terms = []
    unit = embedding / embedding.norm(dim=1, keepdim=True)
    for i in range(4):
        own = min(float((unit[i] - unit[j]).norm()) for j in range(5) if j != i and labels[j] == labels[i])
        other = min(float((unit[i] - unit[j]).norm()) for j in range(5) if labels[j] != labels[i])
        terms.append(max(0.0, 0.5 - own) + max(0.0, own - other))
    assert intra_divergence(embedding, labels).item() == pytest.approx(sum(terms) / 5, rel=1e-5)


def test_diversity_has_a_finite_gradient_for_equal_images():
    embedding = torch.ones(4, 3, requires_grad=True)

    (gradient,) = torch.autograd.grad(intra_divergence(embedding, torch.tensor([0, 0, 1, 1])), embedding)

    assert gradient.isfinite().all()


def test_the_teacher_recognizes_inverted_images(teacher):
    learn_quadrants(teacher.module)
    labels = torch.arange(12) % 4

    inverted = invert(teacher, Inversion(num_images=12, iterations=40), labels, shape=SHAPE, seed=5, poll=no_poll)

    assert inverted.min() >= 0
    assert inverted.max() <= 1
    assert teacher(inverted).argmax(dim=1).equal(labels)
    assert (quadrants(inverted).argmax(dim=1) == labels).float().mean() > 0.8


def test_an_interrupted_run_resumes_with_the_same_images(teacher, tmp_path):
    inversion, steps = Inversion(num_images=5, iterations=3, batch_size=2), []

    def interrupt():
        steps.append(1)
        if len(steps) == 5:  # within the second batch
            raise Interrupted

    def make(cache_dir, poll):
        return inverted_pixels(teacher, inversion, shape=SHAPE, seed=7, cache_dir=cache_dir, poll=poll)

    with pytest.raises(Interrupted):
        make(tmp_path / "one", interrupt)
    resumed = make(tmp_path / "one", lambda: steps.append(1))
    uninterrupted = make(tmp_path / "other", no_poll)

    assert len(steps) == 5 + 2 * 3  # the first batch was saved
    assert np.array_equal(resumed.images, uninterrupted.images)
    assert resumed.labels.tolist() == [0, 1, 2, 3, 0]
    assert [file.name for file in (tmp_path / "one").iterdir()] == ["inverted.npy"]
    assert len(np.unique(uninterrupted.images.reshape(5, -1), axis=0)) == 5

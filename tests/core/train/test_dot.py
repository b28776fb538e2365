"""DOT's optimizer: values of the official code after three steps, drawn from seed 0 by randn."""

import copy

import pytest
import torch

from core.train.dot import DotSgd


def drawn(*sizes):
    torch.manual_seed(0)
    return [torch.randn(size) for size in sizes]


def test_three_steps_match_the_official_code():
    shared, *gradients = drawn(*[6] * 7)
    optimizer = DotSgd([{"params": [shared], "weight_decay": 0.0005}], lr=0.1, momentum=0.9, delta=0.075)

    for distillation, task in zip(gradients[::2], gradients[1::2], strict=True):
        optimizer.set_gradients([task], [distillation])
        optimizer.step()

    assert shared.tolist() == pytest.approx(
        [1.8294797177992936, -0.5655268686881235, -1.5836039190821123, 0.5497863790556923, -0.7236812547344291,
         -1.621577905521243], rel=1e-5,
    )  # fmt: skip


def test_parameters_of_one_loss_match_the_official_code():
    """A projector has no task gradient; another parameter has no distillation gradient."""
    shared, projector, task_only, *gradients = drawn(6, 4, 4, *[6, 4, 6, 4] * 3)
    parameters = [shared, projector, task_only]
    optimizer = DotSgd([{"params": parameters, "weight_decay": 0.01}], lr=0.2, momentum=0.9, delta=0.09)

    for step in range(3):
        distillation, extra, task, task_extra = gradients[4 * step : 4 * step + 4]
        optimizer.set_gradients([task, None, task_extra], [distillation, extra, None])
        optimizer.step()

    expected = (
        [3.39752788050762, -0.7376076642268802, -0.2296849312917136, 0.8946122497795563, -1.9306050788815112,
         -0.00018478658470728215],
        [0.2731441454192996, -0.03672331587615016, -1.5987589266181859, -1.094863012859273],
        [-0.9807762131376123, 1.5271303405407832, -1.1009146025038528, -0.4288821500357028],
    )  # fmt: skip
    for parameter, values in zip(parameters, expected, strict=True):
        assert parameter.tolist() == pytest.approx(values, rel=1e-5, abs=1e-6)


def test_momenta_are_saved_and_loaded():
    (start, *gradients) = drawn(5, 5, 5, 5, 5)
    first, second = start.clone(), start.clone()
    optimizers = [DotSgd([{"params": [p]}], lr=0.1, momentum=0.9, delta=0.05) for p in (first, second)]
    optimizers[0].set_gradients([gradients[0]], [gradients[1]])
    optimizers[0].step()
    second.copy_(first)
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))

    for optimizer in optimizers:
        optimizer.set_gradients([gradients[2]], [gradients[3]])
        optimizer.step()

    assert torch.equal(first, second)


def test_without_a_difference_of_momenta_it_is_sgd():
    start, *gradients = drawn(5, 5, 5, 5, 5)
    weight, reference = start.clone(), start.clone().requires_grad_()
    dot = DotSgd([{"params": [weight], "weight_decay": 0.1}], lr=0.1, momentum=0.9, delta=0.0)
    sgd = torch.optim.SGD([reference], lr=0.1, momentum=0.9)

    for task, distillation in (gradients[:2], gradients[2:]):
        reference.grad = task + distillation + 0.1 * reference.detach()
        sgd.step()
        dot.set_gradients([task], [distillation])
        dot.step()

    torch.testing.assert_close(weight, reference.detach())

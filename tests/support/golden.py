"""Seeded draws, parameter fills and fingerprints of golden values: those of the official code of a method."""

import torch
from torch import Tensor, nn


def draw(*shape: int, scale: float = 1.0) -> Tensor:
    """Return the next standard normal draw of torch's global generator, scaled."""
    return torch.randn(shape) * scale


def fingerprint(values: Tensor) -> float:
    """Return the sum of x_k sin(k), k = 1, 2, …, over the flattened values, in float64."""
    flat = values.detach().double().flatten()
    return float((flat * torch.arange(1, len(flat) + 1, dtype=torch.float64).sin()).sum())


@torch.no_grad()
def fill(*modules: nn.Module) -> None:
    """Set entry j of parameter i, counted over all modules, to 0.3 sin(0.7 j + i); weights of norms are 1 larger."""
    parameters = [entry for module in modules for entry in module.named_parameters()]
    for index, (name, parameter) in enumerate(parameters):
        values = 0.3 * (0.7 * torch.arange(parameter.numel(), dtype=torch.float64) + index).sin()
        is_norm_weight = parameter.ndim == 1 and name.endswith("weight")
        parameter.copy_((values + is_norm_weight).float().view_as(parameter))

"""Helpers for features of tapped networks."""

from torch import Tensor, cat

from core.models.taps import Feature


def all_tokens(feature: Feature) -> Tensor:
    """Return prefix and patch tokens in one tensor, (B, T, D)."""
    return feature.tokens if feature.prefix is None else cat((feature.prefix, feature.tokens), dim=1)

"""PHI-S: standardize the features of a teacher by one scale and a Hadamard rotation (Ranzinger et al. 2024).

arXiv:2410.01680. After the rotation all channels have the same variance, while the geometry of the features is only
scaled. All matrices are float64: in float32 a Hadamard matrix misses orthogonality by 1e-7.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def hadamard(dimension: int) -> Tensor:
    """Return an orthogonal matrix (D, D), float64, whose entries are all ±1/√D.

    A power of two is built by Sylvester's construction, other dimensions as Kronecker product of a Sylvester matrix
    with one of Paley's, of the smallest order that exists.

    Raises:
        ValueError: None of these constructions gives this dimension.
    """
    built = _factors(dimension)
    if built is None:
        raise ValueError(f"no Hadamard matrix of dimension {dimension} is built")
    sylvester_order, order, build = built
    matrix = _sylvester(sylvester_order) if build is None else torch.kron(_sylvester(sylvester_order), build(order))
    normalized: Tensor = matrix / dimension**0.5
    return normalized


def has_hadamard(dimension: int) -> bool:
    """Return whether :func:`hadamard` builds a matrix of this dimension."""
    return _factors(dimension) is not None


def phi_s(covariance: Tensor, *, rotation: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the scale α, a scalar, and the matrix W = α H Vᵀ (D, D) of PHI-S, float64.

    ``covariance`` (D, D) = V diag(λ) Vᵀ, with ascending λ, is that of the teacher's features x; α = 1/√(mean λ). The
    channels of W (x − mean) have variance 1. The inverse is Wᵀ / α². Each eigenvector has the sign with which its
    entry of largest magnitude is positive. ``rotation`` is an orthogonal matrix in place of :func:`hadamard`.

    Raises:
        ValueError: The covariance is not square or is zero, or no Hadamard matrix has its dimension.
    """
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise ValueError(f"a covariance must be (D, D), not {tuple(covariance.shape)}")
    eigenvalues_D, vectors_DD = torch.linalg.eigh(covariance.detach().double())
    mean_variance = eigenvalues_D.clamp(min=0).mean()
    if not mean_variance > 0:
        raise ValueError("the features do not vary: their covariance is zero")
    largest_1D = vectors_DD.abs().argmax(dim=0, keepdim=True)
    vectors_DD = vectors_DD * vectors_DD.gather(0, largest_1D).sign()
    rotation = hadamard(len(covariance)) if rotation is None else rotation
    scale = mean_variance.rsqrt()
    return scale, scale * rotation.to(vectors_DD) @ vectors_DD.T


def _factors(dimension: int) -> tuple[int, int, Callable[[int], Tensor] | None] | None:
    """Return the order of the Sylvester factor, that of Paley's and its construction; None if there is none."""
    if dimension < 1:
        return None
    power_of_two = dimension & -dimension
    if power_of_two == dimension:
        return dimension, 1, None
    sylvester_order = power_of_two // 2
    while sylvester_order >= 1:
        order = dimension // sylvester_order
        if (order - 1) % 4 == 3 and _is_prime(order - 1):
            return sylvester_order, order, _paley_first
        if (order // 2 - 1) % 4 == 1 and _is_prime(order // 2 - 1):
            return sylvester_order, order, _paley_second
        sylvester_order //= 2
    return None


def _sylvester(order: int) -> Tensor:
    matrix = torch.ones(1, 1, dtype=torch.float64)
    block = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    while len(matrix) < order:
        matrix = torch.kron(block, matrix)
    return matrix


def _paley_first(order: int) -> Tensor:
    """Paley's first construction (1933), for order − 1 a prime congruent to 3 modulo 4."""
    matrix = torch.eye(order, dtype=torch.float64)
    matrix[0, 1:] = 1
    matrix[1:, 0] = -1
    matrix[1:, 1:] += _legendre_differences(order - 1)
    return matrix


def _paley_second(order: int) -> Tensor:
    """Paley's second construction (1933), for order/2 − 1 a prime congruent to 1 modulo 4."""
    half = order // 2
    conference = torch.ones(half, half, dtype=torch.float64)
    conference[0, 0] = 0
    conference[1:, 1:] = _legendre_differences(half - 1)
    off_diagonal = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    diagonal = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    return torch.kron(conference, off_diagonal) + torch.kron(torch.eye(half, dtype=torch.float64), diagonal)


def _legendre_differences(prime: int) -> Tensor:
    """Return the Legendre symbols of i − j modulo a prime, (prime, prime)."""
    symbols = torch.full((prime,), -1.0, dtype=torch.float64)
    symbols[torch.arange(prime) ** 2 % prime] = 1
    symbols[0] = 0
    indices = torch.arange(prime)
    return symbols[(indices[:, None] - indices[None, :]) % prime]


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))

"""Hadamard matrices and PHI-S match TAO's official code."""

import pytest
import torch

from core.losses import hadamard, has_hadamard, phi_s
from tests.support.golden import fingerprint


@pytest.mark.parametrize(
    ("dimension", "total", "expected"),
    [
        (4, 2.0, 0.009617261614912831),
        (8, 2.82842712474619, -2.3098354677144197),
        (12, 3.4641016151377553, 2.483260107772251),
        (20, 4.47213595499958, -0.8205286601132609),
        (28, 4.535573676110727, 0.7719761247890766),
    ],
)
def test_a_hadamard_matrix_matches_the_official_code(dimension, total, expected):
    matrix = hadamard(dimension)

    assert matrix.dtype == torch.float64
    assert matrix.sum().item() == pytest.approx(total, rel=1e-9)
    assert fingerprint(matrix) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dimension", [1, 2, 24, 192, 320, 384, 448, 768, 1152, 1664])
def test_widths_of_teachers_have_an_orthogonal_matrix_of_equal_magnitudes(dimension):
    matrix = hadamard(dimension)

    torch.testing.assert_close(matrix @ matrix.T, torch.eye(dimension, dtype=torch.float64), rtol=0, atol=1e-12)
    assert matrix.abs().unique().tolist() == pytest.approx([dimension**-0.5], rel=1e-12)


@pytest.mark.parametrize("dimension", [0, 3, 6, 7, 90])
def test_other_dimensions_are_refused(dimension):
    assert not has_hadamard(dimension)
    with pytest.raises(ValueError, match=f"dimension {dimension}"):
        hadamard(dimension)


def test_phi_s_gives_all_channels_the_variance_one_and_keeps_the_geometry():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    covariance = mixing @ mixing.T

    scale, matrix = phi_s(covariance)

    assert (matrix @ covariance @ matrix.T).diagonal().tolist() == pytest.approx([1.0] * 12, rel=1e-9)
    torch.testing.assert_close(matrix @ matrix.T, scale**2 * torch.eye(12, dtype=torch.float64))


def test_a_covariance_of_zero_or_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="do not vary"):
        phi_s(torch.zeros(4, 4))
    with pytest.raises(ValueError, match=r"\(D, D\)"):
        phi_s(torch.zeros(4, 2))

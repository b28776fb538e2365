"""Parameters of ``spectral``: maps of several layers compared by their spectra (Tian et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, MethodParams, Requirements
from core.spec.methods.composition import LayerPair, Weight


class SpectralParams(MethodParams):
    """Match the spatial frequencies of the first and last layers, and the soft labels."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="The Fourier spectra of the first and last layers' maps are matched, in addition to soft labels.",
        paper="SpectralKD: A Unified Framework for Interpreting and Distilling Vision Transformers via Spectral "
        "Analysis, arXiv:2412.19055",
        year=2024,
        when="ViT or Swin from a deeper or wider one of the same kind, with a long training; it adds no parameters.",
        needs=Requirements(teacher=("logits", "levels"), student=("logits", "levels")),
        caches=("levels", "logits"),
        formula="(1 − alpha) · cross-entropy(labels) + alpha · T² · KL(teacher ‖ student) + weight · mean over the "
        "pairs of layers of |F(S) − F(P(T))|², a mean over real and imaginary parts. F is the orthonormal real 2-D "
        "Fourier transform over the grid, S and T are the maps of the patch tokens before the final norm, and P "
        "averages neighboring channels of a wider teacher to the student's number.",
        deviations=(
            (
                "Different grids are resampled to the coarser one, and a student wider than its teacher has its own "
                "channels averaged; the official code fails for both."
            ),
            (
                "The published results take 400 to 500 epochs without mixing of images, and are compared with "
                "baselines of 300 epochs."
            ),
            (
                "By Parseval's theorem the spectral term is nearly half the squared error of the maps: only the "
                "columns of the lowest and the highest frequency weigh double."
            ),
        ),
    )
    label_free: ClassVar[Mapping[str, tuple[Any, ...]]] = {"alpha": (1.0,)}
    name: Literal["spectral"] = Field(description="The method's name.")
    layers: tuple[LayerPair, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="Pairs [student level, teacher level], counted from 0. Levels are the blocks of a ViT and the "
        "stages of other models. Null: the first two and the last six of both; fewer of a network with fewer than "
        "eight, a quarter of them from its start.",
    )
    weight: Weight = Field(
        default=0.2, description="Weight of the spectra: 0.2 for DeiT and 0.05 for Swin in the paper."
    )
    alpha: float = Field(default=0.9, ge=0, le=1, description="Weight of the soft labels; the labels have 1 − alpha.")
    temperature: float = Field(
        default=1.0, gt=0, le=100, description="Temperature T that softens both distributions; used only with `soft`."
    )
    distillation_type: Literal["soft", "hard"] = Field(
        default="soft",
        description="`soft`: divergence from the teacher's softened probabilities; `hard`: cross-entropy with its "
        "decision.",
    )

"""Parameters of ``wkd``: a Wasserstein distance of the classes' probabilities (Lv et al. 2024)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, MethodParams, Requirements
from core.spec.methods.composition import Weight


class WkdParams(MethodParams):
    """Compare probabilities by the cost of moving them between classes, which is small for similar classes."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="Probability that the student gives to a wrong class costs little if the teacher's class is similar, "
        "by the teacher's own classifier.",
        paper="Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation, arXiv:2412.08139",
        year=2024,
        when="Many classes, of which some are similar, and hard labels; up to 2,000 classes.",
        needs=Requirements(teacher=("logits", "classifier weights")),
        caches=("logits",),
        formula="cross-entropy with the labels − t_y · log p_y + w · W(q, q_T), mean over the batch. p_y is the "
        "student's and t_y the teacher's probability of the label. q and q_T are the probabilities of the other "
        "classes at temperature T, and W is the cost of the flow between them that Sinkhorn's algorithm finds with "
        "regularization λ. Moving probability from class i to j costs 1 − exp(−κ · d), with d = 1 − cosine of the rows "
        "i and j of the teacher's classifier. w falls along half a cosine to 0, from `decay_start` to the end of the "
        "training.",
        deviations=(
            (
                "Costs come from the teacher's classifier. The official code also offers distances of the features of "
                "images of each class, with which its results were measured: κ 1 and w 30 for ResNet-34 and ResNet-18 "
                "on ImageNet, κ 2 and w 25 for ResNet-50 and MobileNet, T 8 and w 600 on CIFAR-100."
            ),
            (
                "The paper's distance of features (WKD-F) is not part of this method. Mixed images count as their most "
                "probable class. No ViT was published."
            ),
        ),
    )
    name: Literal["wkd"] = Field(description="The method's name.")
    temperature: float = Field(default=2.0, gt=0, le=100, description="Temperature T of the other classes.")
    weight: Weight = Field(default=30.0, description="Weight w of the distance.")
    sharpen: float = Field(
        default=1.0, ge=0, le=100, description="Factor κ of the classes' distances; 0 makes all costs 0."
    )
    regularization: float = Field(
        default=0.05, ge=0.001, le=10, description="Regularization λ of Sinkhorn's algorithm; larger is smoother."
    )
    iterations: int = Field(default=10, ge=1, le=100, description="Iterations of Sinkhorn's algorithm.")
    decay_start: float = Field(
        default=0.0, ge=0, le=1, description="Fraction of the training after which w decays; 1: never."
    )

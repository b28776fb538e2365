"""Pure loss functions of tensors: no state, no modules, always computed in float32.

Logits are (B, C), labels (B,) int64 or (B, C) probabilities, pooled features (B, D), maps (B, D, H, W), tokens
(B, N, D). Teacher tensors are detached inside. Hyperparameters are keyword-only. Every function returns a scalar unless
documented otherwise, and raises ``ValueError`` for invalid shapes.
"""

from core.losses.divergence import Reduction, binary_kd, cross_entropy_kd, kd, transformed_teacher
from core.losses.embeddings import MatchReduction, drop_teachers, embedding_match
from core.losses.gradients import GradientRule, gradient_weights
from core.losses.groups import smallest_groups
from core.losses.hadamard import hadamard, has_hadamard, phi_s
from core.losses.labels import labeled_cross_entropies
from core.losses.logit_relations import batch_correlation, class_correlation, dist, standardize
from core.losses.maps import (
    attention_transfer,
    hierarchical_context,
    masked_generation,
    neuron_selectivity,
    spectral,
    target_aware,
    unit_difference,
)
from core.losses.noise import noise_adaptation, noise_matrix
from core.losses.patches import hidden_relation, manifold, qkv_relation, relation_transfer
from core.losses.probe import attention_concentration, attention_probe, wild_scores
from core.losses.regression import normalized_regression
from core.losses.relations import (
    correlation,
    probabilistic_transfer,
    relational_angle,
    relational_distance,
    similarity_preserving,
)
from core.losses.sparse import dense_soft_labels, sparse_soft_labels
from core.losses.target_class import decoupled, normalized, one_for_all, refined, weighted_soft_labels
from core.losses.three_levels import three_levels
from core.losses.token import DistillationType, co_advise, deit, token_divergence
from core.losses.wasserstein import class_distances, wasserstein_features, wasserstein_logits

__all__ = [
    "DistillationType",
    "GradientRule",
    "MatchReduction",
    "Reduction",
    "attention_concentration",
    "attention_probe",
    "attention_transfer",
    "batch_correlation",
    "binary_kd",
    "class_correlation",
    "class_distances",
    "co_advise",
    "correlation",
    "cross_entropy_kd",
    "decoupled",
    "deit",
    "dense_soft_labels",
    "dist",
    "drop_teachers",
    "embedding_match",
    "gradient_weights",
    "hadamard",
    "has_hadamard",
    "hidden_relation",
    "hierarchical_context",
    "kd",
    "labeled_cross_entropies",
    "manifold",
    "masked_generation",
    "neuron_selectivity",
    "noise_adaptation",
    "noise_matrix",
    "normalized",
    "normalized_regression",
    "one_for_all",
    "phi_s",
    "probabilistic_transfer",
    "qkv_relation",
    "refined",
    "relation_transfer",
    "relational_angle",
    "relational_distance",
    "similarity_preserving",
    "smallest_groups",
    "sparse_soft_labels",
    "spectral",
    "standardize",
    "target_aware",
    "three_levels",
    "token_divergence",
    "transformed_teacher",
    "unit_difference",
    "wasserstein_features",
    "wasserstein_logits",
    "weighted_soft_labels",
    "wild_scores",
]

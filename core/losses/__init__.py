"""Pure loss functions of tensors: no state, no modules, always float32.

Logits are (B, C), labels (B,) int64 or (B, C) probabilities. Teachers' tensors are detached inside.
Hyper-parameters are keyword-only, and every function returns a scalar unless it says otherwise.
"""

from core.losses.divergence import Reduction, kd
from core.losses.token import DistillationType, deit, token_divergence

__all__ = ["DistillationType", "Reduction", "deit", "kd", "token_divergence"]

"""Students that timm has no class for: a flexible ViT, ``potstill_vit``, and a flexible Swin, ``potstill_swin``.

After ``import potstill_models``, ``timm.create_model("potstill_vit", **arguments)`` builds one, and
``timm.create_model("local-dir:FOLDER", pretrained=True)`` opens one that was stored. The package
depends on torch and timm alone, so that a student can be used where Potstill is not installed.
"""

from potstill_models.flexible_swin import PotstillSwin, potstill_swin
from potstill_models.flexible_vit import PotstillVit, potstill_vit
from potstill_models.form import Form, SwinForm

__all__ = ["Form", "PotstillSwin", "PotstillVit", "SwinForm", "potstill_swin", "potstill_vit"]

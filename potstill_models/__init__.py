"""Students that timm has no class for, as one flexible ViT under one name: ``potstill_vit``.

After ``import potstill_models``, ``timm.create_model("potstill_vit", **arguments)`` builds one, and
``timm.create_model("local-dir:FOLDER", pretrained=True)`` opens one that was stored. The package
depends on torch and timm alone, so that a student can be used where Potstill is not installed.
"""

from potstill_models.flexible_vit import PotstillVit, potstill_vit
from potstill_models.form import Form

__all__ = ["Form", "PotstillVit", "potstill_vit"]

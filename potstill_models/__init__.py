"""Student architectures that timm does not have: the flexible ``potstill_vit`` and ``potstill_swin``.

After ``import potstill_models``, ``timm.create_model("potstill_vit", **arguments)`` builds one, and
``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads an exported one. The package depends only on torch and
timm, so students run without Potstill.
"""

from potstill_models.flexible_swin import PotstillSwin, potstill_swin
from potstill_models.flexible_vit import PotstillVit, potstill_vit
from potstill_models.options import SwinOptions, VitOptions

__all__ = ["PotstillSwin", "PotstillVit", "SwinOptions", "VitOptions", "potstill_swin", "potstill_vit"]

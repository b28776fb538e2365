"""Student architectures that timm does not have: ``potstill_vit``, ``potstill_swin`` and ``potstill_cnn``.

After ``import potstill_models``, ``timm.create_model("potstill_vit", **arguments)`` builds one, and
``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads an exported one. The package depends only on torch and
timm, so students run without Potstill.
"""

from potstill_models.flexible_swin import PotstillSwin, potstill_swin
from potstill_models.flexible_vit import PotstillVit, potstill_vit
from potstill_models.options import SwinOptions, VitOptions
from potstill_models.resized_cnn import potstill_cnn

__all__ = ["PotstillSwin", "PotstillVit", "SwinOptions", "VitOptions", "potstill_cnn", "potstill_swin", "potstill_vit"]

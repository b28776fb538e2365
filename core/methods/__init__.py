"""How a student is taught: one file a method."""

from core.methods.base import Batch, Method, Outputs, Setting
from core.methods.registry import build_method, implementation

__all__ = ["Batch", "Method", "Outputs", "Setting", "build_method", "implementation"]

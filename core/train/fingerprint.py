"""Fingerprints of trainings, by which later jobs find the weights of an equal one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch

from core.system.digest import json_digest
from core.train.precision import ComputeConfig


def training_fingerprint(fields: Mapping[str, Any], *, threads: int, compute: ComputeConfig) -> str:
    """Return a SHA-256 over the fields of a training and over what its last bits depend on.

    These are threads, device type, precision and library versions.
    """
    environment = {
        "threads": threads,
        "device": compute.device.type,
        "precision": compute.precision,
        "torch": str(torch.__version__),
        "timm": timm.__version__,
    }
    return json_digest({**fields, **environment})

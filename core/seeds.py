"""Seeds that depend on their purpose, not on earlier draws.

Every step seeds torch's generators from (seed, step). A run resumed from a checkpoint therefore draws the same dropout
and drop-path masks as an uninterrupted one.
"""

from __future__ import annotations

import hashlib

import torch

_MASK = 2**64 - 1


def derive_seed(seed: int, purpose: str) -> int:
    """Derive an independent seed (63 bits) for one purpose from a job's seed."""
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def step_seed(seed: int, step: int) -> int:
    """Derive the seed (63 bits) of a step by splitmix64 (Steele et al. 2014), which decorrelates adjacent steps."""
    z = (seed + (step + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return (z ^ (z >> 31)) >> 1


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the generators that a step on ``device`` draws from.

    ``torch.manual_seed`` also queues work for unused devices: 0.2 ms per call before CUDA is initialized, against 1 µs
    here.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)

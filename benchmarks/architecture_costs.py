"""Count parameters and FLOPs of timm's architectures with default arguments, and write them next to the catalog.

Run it after an update of timm: a test compares the versions.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import timm
import torch

from core.evaluate.flops import count_flops
from core.models import catalog
from core.models.architecture_costs import COSTS, ArchitectureCost
from core.models.meta_device import build_on_meta, count_parameters

MAX_SECONDS = 120  # for one architecture; some search for a plan of their blocks


def main(_arguments: Sequence[str]) -> int:
    """Count all architectures and write the file."""
    costs = {name: count_cost(name) for name in catalog.architecture_names()}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(cost)}" for name, cost in costs.items())
    COSTS.write_text(f'{{"timm": "{timm.__version__}", "architectures": {{\n{lines}\n}}}}\n', encoding="utf-8")
    unknown = [name for name, cost in costs.items() if cost.flops is None]
    print(f"{len(costs)} architectures in {COSTS}; without FLOPs: {', '.join(unknown) or 'none'}")
    return 0


def count_cost(architecture: str) -> ArchitectureCost:
    """Count one architecture on the meta device; None for what cannot be built or run there in time."""
    parameters = None
    try:
        with _time_limit(MAX_SECONDS):
            module = build_on_meta(architecture, {})
            parameters = count_parameters(module)
            images = torch.empty(1, *catalog.info(architecture).input_size, device="meta")
            return ArchitectureCost(parameters, count_flops(module, images))
    except Exception as error:  # noqa: BLE001 - timm and torch raise of any type
        print(f"{architecture}: {error}", file=sys.stderr)
        return ArchitectureCost(parameters, None)


@contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    def expire(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    previous = signal.signal(signal.SIGALRM, expire)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)

"""Which operators of a graph stay in float so that the gate holds: the sensitivity pass.

Each operator is quantized alone, and ranked by the error of the logits on calibration images. Then the operators with
the largest errors are left in float: 1, 2, 4 … of them until the gate holds, and the smallest number by bisection.
Mixed precision by such a ranking is standard; see Wu et al. 2020, arXiv:2004.09602, section 5.1.

Shapes: B images, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Selection:
    """Operators to quantize and to leave in float, the held-out accuracy, and the number of graphs that were tried."""

    quantized: tuple[str, ...]
    in_float: tuple[str, ...]
    top1: float
    num_trials: int


def choose_operators(
    names: Sequence[str],
    *,
    errors: Callable[[], Sequence[float]],
    top1: Callable[[Sequence[str]], float],
    accepts: Callable[[float], bool],
) -> Selection:
    """Choose the operators to quantize, as many as the gate accepts; all of them if it accepts no number.

    Args:
        names: Operators that can be quantized.
        errors: Computes the error of each operator alone, in the order of ``names``; called only if it is needed.
        top1: Held-out accuracy with these operators quantized.
        accepts: Whether the gate accepts an accuracy.
    """
    everything = tuple(names)
    first = top1(everything)
    if accepts(first) or not everything:
        return Selection(everything, (), first, 1)
    found = errors()
    ranked = [everything[index] for index in sorted(range(len(found)), key=lambda index: (-found[index], index))]
    tried: dict[int, float] = {0: first}

    def is_accepted(count: int) -> bool:
        if count not in tried:
            tried[count] = top1(_without(everything, ranked[:count]))
        return accepts(tried[count])

    count = _smallest(is_accepted, largest=len(everything) - 1)
    if count is None:
        return Selection(everything, (), first, len(tried))
    in_float = ranked[:count]
    quantized = _without(everything, in_float)
    return Selection(quantized, tuple(n for n in everything if n in set(in_float)), tried[count], len(tried))


def _smallest(is_accepted: Callable[[int], bool], *, largest: int) -> int | None:
    """Return an accepted number whose predecessor is not accepted; None if no number that is tried is accepted."""
    low, high = 0, 1
    while not is_accepted(min(high, largest)):
        if high >= largest:
            return None
        low, high = high, 2 * high
    high = min(high, largest)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_accepted(middle) else (middle, high)
    return high


def _without(names: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    excluded = set(others)
    return tuple(name for name in names if name not in excluded)


def logit_error(logits_BK: Tensor, expected_BK: Tensor) -> float:
    """Mean squared error of logits relative to the variance of the expected ones."""
    error = (logits_BK - expected_BK).double().square().mean()
    return float(error / expected_BK.double().var(correction=0).clamp_min(1e-12))

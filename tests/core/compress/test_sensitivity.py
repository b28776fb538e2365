"""The choice of operators that stay in float."""

import pytest
import torch

from core.compress.sensitivity import choose_operators, logit_error

NAMES = tuple("abcdefgh")
ERRORS = {
    "a": 0.1,
    "b": 0.5,
    "c": 0.2,
    "d": 0.9,
    "e": 0.1,
    "f": 0.3,
    "g": 0.0,
    "h": 0.8,
}  # worst first: d h b f c a e g


def choose(num_needed, *, harmful=("d", "h", "b", "f", "c", "a", "e", "g"), names=NAMES):
    """Choose operators where the gate holds once the first ``num_needed`` harmful ones are in float."""
    calls = []

    def top1(quantized):
        calls.append(quantized)
        return 0.5 if set(harmful[:num_needed]) & set(quantized) else 0.9

    def errors():
        calls.append("errors")
        return [ERRORS[name] for name in names]

    return choose_operators(names, errors=errors, top1=top1, accepts=lambda top1: top1 >= 0.9), calls


def test_no_operator_is_ranked_if_the_gate_holds():
    selection, calls = choose(0)

    assert (selection.quantized, selection.in_float, selection.top1) == (NAMES, (), 0.9)
    assert calls == [NAMES]


@pytest.mark.parametrize("num_needed", range(1, 8))
def test_the_fewest_operators_with_the_largest_errors_stay_in_float(num_needed):
    selection, calls = choose(num_needed)

    assert set(selection.in_float) == set("dhbfcaeg"[:num_needed])
    assert selection.quantized == tuple(name for name in NAMES if name not in selection.in_float)
    assert selection.top1 == 0.9
    assert calls.count("errors") == 1
    assert selection.num_trials == len(calls) - 1 <= 7


def test_all_operators_are_quantized_if_no_choice_passes_the_gate():
    selection, _ = choose(8)

    assert (selection.quantized, selection.in_float, selection.top1) == (NAMES, (), 0.5)


def test_a_single_operator_is_quantized_whatever_the_gate():
    selection, _ = choose(1, harmful=("a",), names=("a",))

    assert selection.quantized == ("a",)


def test_equal_errors_are_ranked_by_the_order_of_the_graph():
    selection = choose_operators(
        NAMES, errors=lambda: [1.0] * 8, top1=lambda names: 0.9 if "a" not in names else 0.5, accepts=lambda t: t >= 0.9
    )

    assert selection.in_float == ("a",)


def test_the_error_of_logits_is_relative_to_their_variance():
    expected = torch.tensor([[0.0, 2.0], [2.0, 4.0]])  # variance 2

    assert logit_error(expected + 1, expected) == pytest.approx(0.5)
    assert logit_error(10 * expected + 10, 10 * expected) == pytest.approx(0.5)

from datetime import UTC, datetime, timedelta

import pytest

from client.console import ago, duration, measures_table, short, size


@pytest.mark.parametrize(
    ("number", "text"),
    [(205_130, "205 k"), (1_200_000, "1.2 M"), (999_600, "1 M"), (8.1e6, "8.1 M"), (12, "12"), (1.39e9, "1.39 G")],
)
def test_big_numbers_are_short(number, text):
    assert short(number) == text


@pytest.mark.parametrize(("num_bytes", "text"), [(834_112, "834 kB"), (12, "12 B"), (999, "999 B"), (1000, "1 kB")])
def test_sizes_are_in_decimal_units(num_bytes, text):
    assert size(num_bytes) == text


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "4 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")])
def test_durations_read_as_one_says_them(seconds, text):
    assert duration(seconds) == text


def test_a_moment_is_told_from_now():
    assert ago((datetime.now(UTC) - timedelta(minutes=3)).isoformat()) == "3 min 00 s ago"


def test_a_model_without_labels_to_judge_it_has_no_accuracy():
    measures = {"top1": None, "parameters": 10, "flops": 20, "size_bytes": 40, "latency_ms": 1.0}

    top1 = measures_table([("student", measures)]).columns[1]

    assert list(top1.cells) == ["—"]

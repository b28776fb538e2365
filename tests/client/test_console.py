import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from client.console import (
    dataset_table,
    escape_text,
    format_age,
    format_bytes,
    format_duration,
    format_quantity,
    job_table,
    metrics_table,
)


@pytest.mark.parametrize(
    ("number", "text"),
    [(205_130, "205 k"), (1_200_000, "1.2 M"), (999_600, "1 M"), (8.1e6, "8.1 M"), (12, "12"), (1.39e9, "1.39 G")],
)
def test_quantities_have_three_digits_and_a_unit(number, text):
    assert format_quantity(number) == text


@pytest.mark.parametrize(("num_bytes", "text"), [(834_112, "834 kB"), (12, "12 B"), (999, "999 B"), (1000, "1 kB")])
def test_sizes_are_in_decimal_units(num_bytes, text):
    assert format_bytes(num_bytes) == text


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "4 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")])
def test_durations_are_formatted(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("passed", "text"),
    [
        (timedelta(seconds=9.5), "9 s ago"),
        (timedelta(minutes=3, seconds=50), "3 min ago"),
        (timedelta(hours=23, minutes=59), "23 h ago"),
        (timedelta(days=1), "1 day ago"),
        (timedelta(days=40), "40 days ago"),
        (timedelta(seconds=-5), "0 s ago"),  # clocks differ
    ],
)
def test_ages_have_one_unit(passed, text):
    assert format_age((datetime.now(UTC) - passed).isoformat()) == text


def test_a_job_table_keeps_id_and_status_on_a_narrow_terminal():
    job = {
        "id": "job_01m891nehfty2tddc3wqvwvt95",
        "name": "deit tiny from a convnext",
        "status": "succeeded",
        "stage": "evaluate",
        "progress": {"fraction": 1.0},
        "result": {"student": {"top1": 0.5}},
        "created_at": (datetime.now(UTC) - timedelta(days=40)).isoformat(),
    }
    narrow = Console(width=80, file=io.StringIO())

    narrow.print(job_table([job]))

    output = narrow.file.getvalue()
    assert all(word in output for word in ("job_01m891nehfty2tddc3wqvwvt95", "succeeded", "evaluate", "50.0%"))


def test_an_unlabeled_dataset_has_no_accuracy():
    measures = {"top1": None, "parameters": 10, "flops": 20, "size_bytes": 40, "latency_ms": 1.0}

    top1 = metrics_table([("student", measures)]).columns[1]

    assert list(top1.cells) == ["—"]


def test_control_characters_in_names_are_escaped():
    """An untrusted name must not change the clipboard or the text direction of the terminal."""
    name = "cat\x1b]52;c;ZXZpbA==\x07\u202egpj"
    dataset = {"id": "ds_1", "name": name, "status": "processing", "splits": None, "num_classes": None}
    printed = Console(file=io.StringIO(), force_terminal=True, width=200)
    printed.print(dataset_table([{**dataset, "created_at": "2026-11-24T08:00:00.000Z"}]))

    assert r"cat\x1b]52;c;ZXZpbA==\x07\u202egpj" in printed.file.getvalue()
    assert escape_text("[red]tab\there\nnext, naïve 猫") == r"\[red]tab" + "\there\nnext, naïve 猫"

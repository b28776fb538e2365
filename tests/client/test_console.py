import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from client.console import ago, dataset_table, duration, job_table, measures_table, short, shown, size


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
def test_a_moment_is_told_from_now_in_one_unit(passed, text):
    assert ago((datetime.now(UTC) - passed).isoformat()) == text


def test_a_list_of_jobs_fits_a_narrow_terminal_and_cuts_neither_id_nor_status():
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

    shown = narrow.file.getvalue()
    assert all(word in shown for word in ("job_01m891nehfty2tddc3wqvwvt95", "succeeded", "evaluate", "50.0%"))


def test_a_model_without_labels_to_judge_it_has_no_accuracy():
    measures = {"top1": None, "parameters": 10, "flops": 20, "size_bytes": 40, "latency_ms": 1.0}

    top1 = measures_table([("student", measures)]).columns[1]

    assert list(top1.cells) == ["—"]


def test_a_name_commands_no_terminal():
    """Whoever may write chooses it, whoever lists reads it: this one would change the clipboard, and read backwards."""
    name = "cat\x1b]52;c;ZXZpbA==\x07\u202egpj"
    dataset = {"id": "ds_1", "name": name, "status": "processing", "splits": None, "num_classes": None}
    printed = Console(file=io.StringIO(), force_terminal=True, width=200)
    printed.print(dataset_table([{**dataset, "created_at": "2026-11-24T08:00:00.000Z"}]))

    assert r"cat\x1b]52;c;ZXZpbA==\x07\u202egpj" in printed.file.getvalue()
    assert shown("[red]tab\there\nnext, naïve 猫") == r"\[red]tab" + "\there\nnext, naïve 猫"

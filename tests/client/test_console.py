import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from potstill._sync.datasets import Dataset
from potstill._sync.job import Job
from potstill.cli import datasets, job_text, tables
from potstill.cli.routes import name_commands, name_option
from potstill.cli.tables import Column, make_table
from potstill.documents import Measured
from potstill.formats import escape_text, format_age, format_bytes, format_duration, format_quantity
from tests.support.openapi_documents import make_document


@pytest.fixture
def printed(monkeypatch):
    """Print with a console of this width; return its lines."""

    def run(width, print_it, *arguments):
        console = Console(width=width, file=io.StringIO(), force_terminal=False)
        monkeypatch.setattr(tables, "out", console)
        print_it(*arguments)
        return console.file.getvalue().splitlines()

    return run


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
    assert format_age(datetime.now(UTC) - passed) == text


@pytest.fixture
def long_job(make_job):
    return Job.model_validate(make_job(id="job_01m891nehfty2tddc3wqvwvt95", name="deit tiny from a convnext"))


def test_a_job_table_keeps_whole_words_at_80_columns(printed, long_job):
    lines = printed(80, job_text.print_jobs, [long_job])

    words = " ".join(lines).split()
    for word in ("job_01m891nehfty2tddc3wqvwvt95", "convnext", "succeeded", "export"):
        assert word in words
    assert any("91.0 %" in line for line in lines), "a number and its unit stay on one line"
    assert "created" not in words, "the least important column is left out"
    assert max(map(len, lines)) <= 80


def test_a_wide_terminal_shows_every_column(printed, long_job):
    lines = printed(120, job_text.print_jobs, [long_job])

    assert lines[0].split() == ["job", "name", "status", "stage", "done", "top-1", "created"]
    assert len(lines) == 2


def test_columns_are_left_out_in_the_order_of_their_importance():
    columns = [Column("a"), Column("b", optional=2), Column("c", optional=1)]
    headings = [
        [column.header for column in make_table(columns, [("x" * 10,) * 3], width=width).columns]
        for width in (34, 33, 10)
    ]

    assert headings == [["a", "b", "c"], ["a", "c"], ["a"]]


def test_an_unlabeled_dataset_has_no_accuracy(printed):
    measured = Measured(top1=None, parameters=10, flops=20, size_bytes=40, latency_ms=1.0)

    assert "—" in printed(80, job_text.print_models, [("student", measured)])[1]


def test_control_characters_in_names_are_escaped(printed):
    """An untrusted name must not change the clipboard or the text direction of the terminal."""
    name = "cat\x1b]52;c;ZXZpbA==\x07\u202egpj"
    dataset = Dataset.model_validate(make_document("DatasetOut", id="ds_1", name=name))

    lines = printed(200, datasets.print_datasets, [dataset])

    assert r"cat\x1b]52;c;ZXZpbA==\x07\u202egpj" in lines[1]
    assert escape_text("[red]tab\there\nnext, naïve 猫") == r"\[red]tab" + "\there\nnext, naïve 猫"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no method kdd. GET /v1/methods lists them.", "no method kdd. `potstill methods list` lists them."),
        ("see `GET /v1/methods/{name}`", "see `potstill methods show`"),
        ("DELETE /v1/datasets/…, /v1/jobs/…", "`potstill datasets delete`, `potstill jobs delete`"),
        ("POST /v1/webhooks/wh_01m8r43r0t1r7gf5ewxhwsmwe7/rotate", "`potstill webhooks rotate`"),
        ("expected /v1/unknown", "expected /v1/unknown"),
    ],
)
def test_routes_in_errors_become_commands(text, expected):
    assert name_commands(text) == expected


def test_query_parameters_in_errors_become_options():
    assert name_option("/max_points/0", "query parameter: must be 1 or more") == ("--max-points", "must be 1 or more")
    assert name_option("/student", "is missing") == ("/student", "is missing")

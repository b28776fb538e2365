"""``python -m benchmarks`` knows what there is, and names it to whoever asks."""

from importlib import import_module

import pytest

from benchmarks.__main__ import COMPARISONS, NOT_IN_ALL, QUESTIONS, main


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_benchmark_can_be_run(name):
    assert callable(import_module(f"benchmarks.{name}").main)


def test_what_is_named_apart_exists():
    assert {*NOT_IN_ALL, *COMPARISONS} <= set(QUESTIONS)


def test_help_names_all(capsys):
    assert main(["--help"]) == 0
    assert main(["nothing"]) == 2

    printed = capsys.readouterr().out
    assert all(f"python -m benchmarks {name} " in printed for name in ("all", *QUESTIONS))

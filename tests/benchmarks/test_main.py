"""``python -m benchmarks`` runs and lists every benchmark."""

from importlib import import_module

import pytest

from benchmarks.__main__ import BENCHMARKS, COMPARISONS, NOT_IN_ALL, main


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_can_be_run(name):
    assert callable(import_module(f"benchmarks.{name}").main)


def test_benchmarks_with_special_handling_exist():
    assert {*NOT_IN_ALL, *COMPARISONS} <= set(BENCHMARKS)


def test_help_lists_every_benchmark(capsys):
    assert main(["--help"]) == 0
    assert main(["nothing"]) == 2

    printed = capsys.readouterr().out
    assert all(f"python -m benchmarks {name} " in printed for name in ("all", *BENCHMARKS))

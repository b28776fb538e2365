"""The speed page lists every measured figure with its goal."""

import json
from xml.etree import ElementTree as ET

import pytest

from benchmarks.goal_plot import Goal, number, plot
from benchmarks.speed_page import main

FIGURES = [
    {"question": "second job & co.", "value": 3.0, "unit": "×", "goal": "≥ 2.8", "spread": [2.9, 3.2], "repeats": 3},
    {"question": "overhead", "value": 1.1, "unit": "×", "goal": "≤ 1.03", "spread": [1.0, 1.2], "repeats": 3},
    {"question": "no goal", "value": 5, "unit": "s", "goal": None, "spread": [4, 6], "repeats": 2, "detail": "x|y"},
]


@pytest.mark.parametrize(
    ("text", "expected", "good", "bad"),
    [
        ("≥ 2", "≥ 2", 2, 1.9),
        ("≤ 1.03", "≤ 1.03", 1.03, 1.04),
        ("< 0.1 s", "≤ 0.1", 0.05, 0.2),
        ("at least 1,000 streams", "≥ 1000", 1_000, 999),
        (3, "≤ 3", 2, 4),
        (0, "≤ 0", 0, 1),
    ],
)
def test_a_goal_is_parsed(text, expected, good, bad):
    goal = Goal.parse(text)

    assert str(goal) == expected
    assert goal.met(good)
    assert not goal.met(bad)
    assert goal.margin(good) > goal.margin(bad)


@pytest.mark.parametrize("text", [None, "", "linear"])
def test_a_text_without_a_bound_is_no_goal(text):
    assert Goal.parse(text) is None


@pytest.mark.parametrize(
    ("value", "expected"), [(2.98234, "2.98"), (0.0312, "0.0312"), (1234.5, "1,234"), (0, "0"), (12.34, "12.3")]
)
def test_numbers_have_three_significant_digits(value, expected):
    assert number(value) == expected


def test_the_plot_shows_figures_with_a_goal():
    root = ET.fromstring(plot(FIGURES))

    text = " ".join(root.itertext())
    assert "second job & co." in text
    assert "no goal" not in text
    assert len(root.findall("{http://www.w3.org/2000/svg}circle")) == 2


def test_the_page_contains_every_result(tmp_path):
    machine = {"processor": "CPU", "cpus": 2, "cuda": None, "torch": "2"}
    for name, figures in {"service": FIGURES[1:2], "growth": FIGURES[2:], "cached_training": FIGURES[:1]}.items():
        document = {"description": f"All about {name}.", "machine": machine, "figures": figures}
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    (tmp_path / "methods_over_rest.json").write_text(json.dumps({"rows": []}))

    assert main(["--results", str(tmp_path), "--docs", str(tmp_path)]) == 0

    text = (tmp_path / "speed.md").read_text()
    assert text.index("second job") < text.index("| overhead") < text.index("| no goal")
    assert "| second job & co. | 3.00 × | 2.90 to 3.20 | 3 | ≥ 2.8 | yes |" in text
    assert "| 1.10 × | 1.00 to 1.20 | 3 | ≤ 1.03 | no |" in text
    assert "Machine: CPU, 2 CPUs, no GPU, torch 2." in text
    assert "All about growth." in text
    assert (tmp_path / "speed.svg").is_file()


def test_without_figures_nothing_is_written(tmp_path):
    assert main(["--results", str(tmp_path), "--docs", str(tmp_path)]) == 1
    assert list(tmp_path.iterdir()) == []

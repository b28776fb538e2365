"""The compression benchmark: its runs, and a section whose words follow from the results."""

from xml.etree import ElementTree as ET

import pytest

from benchmarks.compression.plan import (
    FLOAT,
    INT8,
    PEER_STATIC,
    PRUNED,
    PRUNED_BY_LABELS,
    Protocol,
    runs,
)
from benchmarks.compression.report import HEADING, replaced, write_report
from benchmarks.quality.results import Results

MACHINE = {"processor": "CPU", "cpus": 2, "torch": "2"}
PAGE = f"# Compression\nText.\n\n{HEADING}Old.\n\n## After\nKept.\n"
PROTOCOL = Protocol(seeds=3)


def row(arm, top1, *, kind="onnx", size=2_800_000, **more):
    return {"arm": arm, "format": kind, "top1": top1, "size_bytes": size, "latency_ms": 1.0, **more}


def add(results, group, seed, rows, **changes):
    (run,) = (run for run in runs(PROTOCOL) if (run.group.name, run.seed) == (group, seed))
    network = row(FLOAT, 0.5 + seed / 100, kind="safetensors", parameters=690_000, flops=100.0)
    common = {"status": "succeeded", "seconds": 1.0, "load_average": 1.0, "machine": MACHINE, "threads": 1}
    found = {"name": run.name, "digest": run.digest, "seed": seed, "teacher_top1": 0.795, "rows": [network, *rows]}
    results.add({**common, **found, **changes})


@pytest.fixture
def results(tmp_path):
    found = Results(tmp_path / "results")
    for seed, noise in enumerate((0.001, -0.001, 0.0)):
        base = 0.5 + seed / 100
        add(
            found,
            "quantized",
            seed,
            [row(FLOAT, base), row(INT8, base - 0.003 + noise, size=700_000), row(PEER_STATIC, 0.1)],
        )
        pruned = row(PRUNED, base - 0.01 + noise, kind="safetensors", flops=49.0)
        add(found, "pruned", seed, [pruned])
        add(found, "pruned-labels", seed, [row(PRUNED_BY_LABELS, base - 0.03, kind="safetensors", flops=49.0)])
    return found


def text_of(results, tmp_path):
    page = tmp_path / "compression.md"
    page.write_text(PAGE)
    write_report(PROTOCOL, list(runs(PROTOCOL)), results, page)
    return page.read_text()


def test_the_first_groups_of_all_seeds_precede_the_others():
    order = [(run.group.name, run.seed) for run in runs(PROTOCOL)]

    assert order[:4] == [("quantized", 0), ("pruned", 0), ("pruned-labels", 0), ("quantized", 1)]
    assert order[9] == ("pruned-30", 0)
    assert len({run.digest for run in runs(PROTOCOL)}) == len(order) == 18
    assert {run.group.name for run in runs(Protocol(student="cnn"))} == {
        "quantized", "pruned", "pruned-labels", "pruned-30",
    }  # fmt: skip


def test_the_section_replaces_the_one_before(results, tmp_path):
    text = text_of(results, tmp_path)

    assert text.startswith("# Compression\nText.\n\n## Measured\nWritten by")
    assert text.endswith("\n\n## After\nKept.\n")
    assert "Old." not in text
    assert replaced(text, f"{HEADING}New.\n") == PAGE.replace("Old.", "New.")


def test_each_arm_is_compared_with_the_float_file_of_its_format(results, tmp_path):
    text = text_of(results, tmp_path)

    assert "| float32, model.onnx | 51.00 | 3 |  | 2,800 | 1.00 |  | 1.00 |" in text
    assert "| int8 static | 50.70 | 3 | -0.30 ± 0.25 | 700 | 4.00 |" in text
    assert "| 50 % FLOPs | 50.00 | 3 | -1.00 ± 0.25 | 2,800 | 1.00 | 49 % |" in text
    assert "from 9 of 18 runs" in text


def test_goals_are_judged_by_figures(results, tmp_path):
    text = text_of(results, tmp_path)

    assert "Met by the mean: -0.30 ± 0.25 points, 4.00 times smaller. The interval includes larger losses." in text
    assert "Met by the mean: -1.00 ± 0.25 points. A pruned network is trained further" in text
    assert "Met: +2.00 ± 0.25 points with 3 seeds." in text


def test_a_missed_goal_and_a_single_seed_are_stated(tmp_path):
    results = Results(tmp_path / "results")
    add(results, "quantized", 0, [row(FLOAT, 0.5), row(INT8, 0.45, size=900_000)], load_average=3.1)
    add(results, "pruned", 0, [row(PRUNED, 0.49, kind="safetensors", flops=49.0)])
    add(results, "pruned-labels", 0, [row(PRUNED_BY_LABELS, 0.47, kind="safetensors", flops=49.0)])

    text = text_of(results, tmp_path)

    assert "Not met: -5.00 points, 3.11 times smaller." in text
    assert "Not shown: +2.00 points with one seed." in text
    assert "load average up to 3.1 on 2 CPUs" in text


def test_the_plot_has_a_point_and_a_name_for_each_arm(results, tmp_path):
    text_of(results, tmp_path)
    root = ET.parse(tmp_path / "compression.svg").getroot()

    assert len(root.findall("{http://www.w3.org/2000/svg}circle")) == 2 * 6
    assert "50 % FLOPs, fine-tuned on labels alone" in " ".join(root.itertext())


def test_without_results_the_section_states_it(tmp_path):
    text = text_of(Results(tmp_path / "results"), tmp_path)

    assert "**Nothing has been measured yet.**" in text
    assert not (tmp_path / "compression.svg").exists()

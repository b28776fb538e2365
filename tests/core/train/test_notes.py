"""Notes of what was found out before on this machine."""

import torch

from core.spec import parse_job_spec
from core.spec.examples import example_job
from core.train.notes import Notes
from core.train.precision import choose_arithmetic
from core.train.probe import probed_part

ARITHMETIC = choose_arithmetic(torch.device("cpu"), "float32")


def part(**training):
    document = example_job("scratch")
    document["training"] |= training
    return probed_part(parse_job_spec(document))


def test_what_was_noted_is_found_by_all_that_it_depends_on(tmp_path):
    notes = Notes(tmp_path, ARITHMETIC, 2)
    notes.keep("probe", {"spec": 1}, {"seconds": 0.5})

    assert notes.find("probe", {"spec": 1}) == {"seconds": 0.5}
    assert notes.find("probe", {"spec": 2}) is None
    assert notes.find("look", {"spec": 1}) is None
    assert Notes(tmp_path, ARITHMETIC, 1).find("probe", {"spec": 1}) is None


def test_a_note_that_is_damaged_or_cannot_be_written_is_none(tmp_path):
    notes = Notes(tmp_path, ARITHMETIC, 1)
    notes.keep("probe", {}, {"a": 1})
    (file,) = (tmp_path / "notes").iterdir()
    file.write_text("{")

    assert notes.find("probe", {}) is None
    (tmp_path / "file").write_text("")
    Notes(tmp_path / "file", ARITHMETIC, 1).keep("probe", {}, {"a": 1})


def test_a_probe_does_not_depend_on_what_no_step_fails_at():
    assert part(seed=1, epochs=9, learning_rate=0.5) == part()
    assert part(batch_size=7) != part()

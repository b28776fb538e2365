"""Notes of what was found out before on this machine."""

import torch

from core.spec import parse_job_spec
from core.spec.examples import example_job
from core.train.preflight import probed_part
from core.train.result_cache import ResultCache

CPU = torch.device("cpu")


def part(**training):
    document = example_job("scratch")
    document["training"] |= training
    return probed_part(parse_job_spec(document))


def test_what_was_noted_is_found_by_all_that_it_depends_on(tmp_path):
    notes = ResultCache(tmp_path, CPU, 2)
    notes.keep("probe", {"spec": 1}, {"seconds": 0.5})

    assert notes.find("probe", {"spec": 1}) == {"seconds": 0.5}
    assert notes.find("probe", {"spec": 2}) is None
    assert notes.find("look", {"spec": 1}) is None
    assert ResultCache(tmp_path, CPU, 1).find("probe", {"spec": 1}) is None
    assert ResultCache(tmp_path, torch.device("meta"), 2).find("probe", {"spec": 1}) is None


def test_a_note_that_is_damaged_or_cannot_be_written_is_none(tmp_path):
    notes = ResultCache(tmp_path, CPU, 1)
    notes.keep("probe", {}, {"a": 1})
    (file,) = (tmp_path / "notes").iterdir()
    for damage in (b"{", b"", b"[1]", file.read_bytes().replace(b"1}", b"2}")):
        file.write_bytes(damage)
        assert notes.find("probe", {}) is None
    (tmp_path / "file").write_text("")
    ResultCache(tmp_path / "file", CPU, 1).keep("probe", {}, {"a": 1})
    assert [path.name for path in (tmp_path / "notes").iterdir()] == [file.name]


def test_a_probe_does_not_depend_on_what_no_step_fails_at():
    assert part(seed=1, epochs=9, learning_rate=0.5) == part()
    assert part(batch_size=7) != part()

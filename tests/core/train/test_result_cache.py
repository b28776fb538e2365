"""Cache of measured results."""

import torch

from core.spec import parse_job_spec
from core.spec.examples import example_job
from core.train.preflight import preflight_fields
from core.train.result_cache import ResultCache

CPU = torch.device("cpu")


def fields(**training):
    document = example_job("scratch")
    document["training"] |= training
    return preflight_fields(parse_job_spec(document))


def test_a_result_is_found_by_its_complete_key(tmp_path):
    cache = ResultCache(tmp_path, CPU, 2)
    cache.put("preflight", {"spec": 1}, {"seconds": 0.5})

    assert cache.get("preflight", {"spec": 1}) == {"seconds": 0.5}
    assert cache.get("preflight", {"spec": 2}) is None
    assert cache.get("evaluation", {"spec": 1}) is None
    assert ResultCache(tmp_path, CPU, 1).get("preflight", {"spec": 1}) is None
    assert ResultCache(tmp_path, torch.device("meta"), 2).get("preflight", {"spec": 1}) is None


def test_a_damaged_or_unwritable_entry_is_a_miss(tmp_path):
    cache = ResultCache(tmp_path, CPU, 1)
    cache.put("preflight", {}, {"a": 1})
    (file,) = (tmp_path / "results").iterdir()
    for damage in (b"{", b"", b"[1]", file.read_bytes().replace(b"1}", b"2}")):
        file.write_bytes(damage)
        assert cache.get("preflight", {}) is None
    (tmp_path / "file").write_text("")
    ResultCache(tmp_path / "file", CPU, 1).put("preflight", {}, {"a": 1})
    assert [path.name for path in (tmp_path / "results").iterdir()] == [file.name]


def test_preflight_fields_exclude_what_cannot_make_a_step_fail():
    assert fields(seed=1, epochs=9, learning_rate=0.5) == fields()
    assert fields(batch_size=7) != fields()

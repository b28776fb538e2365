"""Rows are the same wherever they lie."""

import numpy as np
import torch

from core.teacher.said import Held, Mapped
from core.teacher.store import AnswerStore, Shard

WHOLE = np.random.default_rng(0).standard_normal((25, 6)).astype(np.float16)
SHARDS = [WHOLE[:10], WHOLE[10:20], WHOLE[20:]]


def test_rows_in_memory_and_on_disk_are_those_of_the_samples(tmp_path):
    store = AnswerStore(tmp_path, 10**6)
    with store.filling("key", 1_000, lambda: None) as entry:
        for number, rows in enumerate(SHARDS):
            entry.write(number, Shard(rows, 0.5))
        mapped = [entry.read(number, mapped=True).rows for number in range(3)]
    indices = torch.tensor([24, 0, 10, 9, 0, 19])

    assert Mapped(mapped, 10).rows(indices).numpy().tobytes() == WHOLE[indices.numpy()].tobytes()
    assert Held(SHARDS).rows(indices).numpy().tobytes() == WHOLE[indices.numpy()].tobytes()


def test_mapped_rows_outlive_their_entry(tmp_path):
    store = AnswerStore(tmp_path, 10**6)
    with store.filling("key", 1_000, lambda: None) as entry:
        entry.write(0, Shard(WHOLE, 0.5))
        rows = entry.read(0, mapped=True).rows
    for file in (tmp_path / "key").iterdir():
        file.unlink()

    assert rows.tobytes() == WHOLE.tobytes()
    assert not rows.flags.writeable

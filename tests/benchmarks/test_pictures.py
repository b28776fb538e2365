"""Pictures to measure on are there without any archive."""

from pathlib import Path

from benchmarks import pictures
from core.data.stored import StoredDataset


def test_without_the_archive_digits_are_enlarged(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "ARCHIVE", Path("/nowhere.zip"))

    folder, source = pictures.stored_pictures(tmp_path, 1_000)

    assert source == "digits"
    with StoredDataset.open(folder) as stored:
        assert len(stored.split("train")) == 1_000  # more than there are: some come again
        assert (stored.channels, stored.image_size) == (3, 32)

"""Benchmark images are available without the CIFAR-10 archive."""

from pathlib import Path

from benchmarks import images
from core.data.stored import StoredDataset


def test_without_the_archive_digits_are_resized(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "ARCHIVE", Path("/nowhere.zip"))

    folder, source = images.stored_images(tmp_path, 1_000)

    assert source == "digits"
    with StoredDataset.open(folder) as stored:
        assert len(stored.split("train")) == 1_000  # more than the source has: some are repeated
        assert (stored.channels, stored.image_size) == (3, 32)

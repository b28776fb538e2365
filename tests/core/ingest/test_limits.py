import pytest

from core.errors import DatasetRejected
from core.ingest.limits import IngestLimits, UnpackBudget, format_bytes


def test_the_number_of_files_is_limited():
    budget = UnpackBudget(IngestLimits(max_archive_files=2), packed_bytes=None)
    budget.count_file()
    budget.count_file()

    with pytest.raises(DatasetRejected, match="more than 2 files"):
        budget.count_file()


def test_the_unpacked_size_is_limited():
    budget = UnpackBudget(IngestLimits(max_unpacked_bytes=1000), packed_bytes=None)
    budget.count_bytes(1000)

    with pytest.raises(DatasetRejected, match=r"more than 1.0 kB unpacked"):
        budget.count_bytes(1)


def test_the_compression_ratio_of_large_archives_is_limited():
    budget = UnpackBudget(IngestLimits(max_unpack_ratio=10), packed_bytes=10_000_000)
    budget.count_bytes(100_000_000)

    with pytest.raises(DatasetRejected, match="decompression bomb"):
        budget.count_bytes(1)


def test_small_archives_may_have_any_compression_ratio():
    UnpackBudget(IngestLimits(max_unpack_ratio=10), packed_bytes=100).count_bytes(60_000_000)


@pytest.mark.parametrize(("size", "text"), [(12, "12 bytes"), (1500, "1.5 kB"), (1.6e9, "1.6 GB"), (5e12, "5000.0 GB")])
def test_sizes_are_formatted(size, text):
    assert format_bytes(size) == text

import gzip
import io
import lzma
import tarfile

import pytest

from core.errors import DatasetRejected
from core.ingest.archives import archive_files
from core.ingest.limits import IngestLimits, UnpackBudget
from core.ingest.tar import looks_like_tar, tar_entries

FILES = {"a/1.png": b"one", "a/2.png": b"two" * 1000, "b/empty.png": b""}


@pytest.fixture
def listed(tmp_path):
    """Read an archive given as bytes; return contents and rejection reasons by path."""

    def read(content, **limits):
        path = tmp_path / "upload"
        path.write_bytes(content)
        return {file.path: file.reason or file.content for file in archive_files(path, IngestLimits(**limits))}

    return read


@pytest.fixture
def packed():
    """Make a tar archive from header objects."""

    def make(*infos, **options):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", **options) as archive:
            for info in infos:
                archive.addfile(info, io.BytesIO(b"\0" * info.size))
        return out.getvalue()

    return make


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_the_files_of_a_tar_are_read_for_each_compression(listed, tarred, mode):
    assert listed(tarred(FILES, mode)) == FILES


def test_an_old_tar_without_magic_is_recognized_by_its_checksum(tarred):
    header = bytearray(tarred(FILES)[:512])
    header[257:265] = b"\0" * 8
    total = 256 + sum(header[:148]) + sum(header[156:])
    header[148:156] = b"%06o\0 " % total

    assert looks_like_tar(bytes(header))
    assert not looks_like_tar(b"x" * 512)
    assert not looks_like_tar(b"short")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_rejected(listed, packed, kind):
    odd = tarfile.TarInfo("a/odd.png")
    odd.type, odd.linkname = kind, "/etc/passwd"

    assert "links and special files" in listed(packed(odd))["a/odd.png"]


def test_paths_outside_a_tar_are_rejected(listed, tarred):
    found = listed(tarred({"../x.png": b"x", "/abs.png": b"x", "./a/1.png": b"1"}))

    assert found["../x.png"] == found["/abs.png"] == "the path leads outside the archive"
    assert found["a/1.png"] == b"1"


def test_a_name_that_is_not_utf8_is_rejected_in_printable_form(listed, packed):
    info = tarfile.TarInfo("a/\udcff.png")

    found = listed(packed(info, format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape"))

    assert found == {"a/\\udcff.png": "the path has control characters or is not UTF-8"}


def test_long_names_are_read(listed, tarred):
    name = "/".join(["x" * 90] * 5) + "/1.png"

    assert listed(tarred({name: b"1"})) == {name: b"1"}


def endless_gzip(name, size=16 * 1024**3):
    """Make a tar.gz whose single member unpacks to 16 GiB: one compressed block of zeros, repeated."""
    info = tarfile.TarInfo(name)
    info.size = size
    block = gzip.compress(b"\0" * 2**24)
    return gzip.compress(info.tobuf()) + block * (size // 2**24)


@pytest.mark.parametrize("name", ["a/1.png", "passed/over.txt"])
def test_a_tar_bomb_is_stopped_while_it_unpacks(tmp_path, name):
    path = tmp_path / "bomb.tar.gz"
    path.write_bytes(endless_gzip(name))

    with pytest.raises(DatasetRejected, match=r"more than 100.0 MB unpacked"):
        list(archive_files(path, IngestLimits(max_unpacked_bytes=100_000_000, max_file_bytes=2**40)))


def test_the_compression_ratio_of_a_tar_is_limited(listed, tarred):
    with pytest.raises(DatasetRejected, match="decompression bomb"):
        listed(tarred({"a/1.png": b"\0" * 80_000_000}, "w:gz"))


def test_too_many_files_fail(listed, tarred):
    with pytest.raises(DatasetRejected, match="more than 2 files"):
        listed(tarred(FILES), max_archive_files=2)


def test_a_too_large_header_is_rejected_unread(listed, packed):
    header = tarfile.TarInfo("long")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 70_000_000

    with pytest.raises(DatasetRejected, match="extension headers"):
        listed(header.tobuf(tarfile.GNU_FORMAT) + b"\0" * 10_240)


def test_too_many_global_headers_are_rejected(listed):
    header = tarfile.TarInfo.create_pax_global_header({"comment": "x"})

    with pytest.raises(DatasetRejected, match="extension headers"):
        listed(header * 100 + b"\0" * 1024)


def test_an_endless_chain_of_headers_is_rejected(listed):
    header = tarfile.TarInfo("long")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 512

    with pytest.raises(DatasetRejected, match="damaged"):
        listed((header.tobuf(tarfile.GNU_FORMAT) + b"a" * 512) * 3000 + b"\0" * 1024)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
@pytest.mark.parametrize("fraction", [0.3, 0.9])
def test_a_truncated_tar_is_rejected(listed, tarred, mode, fraction):
    files = {f"a/{i}.png": bytes(range(256)) * 40 for i in range(10)}
    content = tarred(files, mode)
    if mode == "w":
        content = content[: 10 * (512 + 10_240)]  # without the padding after the last file

    with pytest.raises(DatasetRejected, match="damaged or truncated"):
        listed(content[: int(fraction * len(content))])


def test_a_damaged_header_does_not_end_the_archive_silently(listed, tarred):
    content = bytearray(tarred(FILES))
    content[1024 + 10] ^= 0xFF  # in the second file's header

    with pytest.raises(DatasetRejected, match="damaged or truncated"):
        listed(bytes(content))


def test_a_wrong_gzip_checksum_is_detected(listed, tarred):
    content = bytearray(tarred(FILES, "w:gz"))
    content[-8] ^= 0xFF

    with pytest.raises(DatasetRejected, match="damaged"):
        listed(bytes(content))


def test_an_xz_with_several_streams_is_one_archive(listed, tarred):
    content = tarred(FILES)

    assert listed(lzma.compress(content[:1000]) + b"\0" * 8 + lzma.compress(content[1000:])) == FILES


def test_an_xz_with_a_large_memory_requirement_is_rejected(listed, tarred):
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 2**30}]

    with pytest.raises(DatasetRejected, match=r"(?i)mem"):
        listed(lzma.compress(tarred(FILES), format=lzma.FORMAT_XZ, filters=filters))


def test_entries_are_listed_in_order(tmp_path, tarred):
    path = tmp_path / "x.tar"
    path.write_bytes(tarred(FILES))

    budget = UnpackBudget(IngestLimits(), packed_bytes=None)
    assert [entry.name for entry in tar_entries(path, budget)] == list(FILES)

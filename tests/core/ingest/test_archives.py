import io
import os
import struct
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import DatasetRejected
from core.ingest.archives import archive_files, folder_files
from core.ingest.limits import IngestLimits


@pytest.fixture
def listed(tmp_path):
    """Read an archive given as bytes; return contents and rejection reasons by path."""

    def read(content, **limits):
        path = tmp_path / "upload"
        path.write_bytes(content)
        return {file.path: file.reason or file.content for file in archive_files(path, IngestLimits(**limits))}

    return read


def test_the_files_of_a_zip_are_read(listed, zipped):
    files = {"a/1.png": b"one", "a/2.png": b"two"}

    assert listed(zipped(files)) == files
    assert listed(zipped(files, zipfile.ZIP_DEFLATED)) == files


def test_folders_and_system_files_are_ignored(listed, zipped):
    assert listed(zipped({"a/": b"", "a/1.png": b"1", "__MACOSX/a/._1.png": b"x", "a/Thumbs.db": b"x"})) == {
        "a/1.png": b"1"
    }


def test_paths_outside_a_zip_are_rejected(listed, zipped):
    found = listed(zipped({"../../outside.png": b"x", "/etc/passwd.png": b"x", "a/1.png": b"1"}))

    assert found == {
        "../../outside.png": "the path leads outside the archive",
        "/etc/passwd.png": "the path leads outside the archive",
        "a/1.png": b"1",
    }


def test_a_link_in_a_zip_is_reported(listed):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        link = zipfile.ZipInfo("a/link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")

    assert "links and special files" in listed(out.getvalue())["a/link.png"]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_compression_is_reported(listed, zipped, method):
    assert "deflate" in listed(zipped({"a/1.png": b"1" * 100}, method))["a/1.png"]


def test_an_encrypted_file_is_reported(listed, zipped):
    content = bytearray(zipped({"a/1.png": b"1"}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.find(signature) + offset] |= 1

    assert "encrypted" in listed(bytes(content))["a/1.png"]


def test_a_damaged_file_is_reported_and_the_others_are_read(listed, zipped):
    content = zipped({"a/1.png": b"first", "a/2.png": b"second"}).replace(b"first", b"frist")

    found = listed(content)

    assert "damaged in the archive: Bad CRC-32" in found["a/1.png"]
    assert found["a/2.png"] == b"second"


def test_a_file_is_not_read_beyond_its_declared_size(listed, zipped):
    content = bytearray(zipped({"a/1.png": b"\0" * 5_000_000}, zipfile.ZIP_DEFLATED))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", content, content.find(signature) + offset, 10)

    assert "damaged" in listed(bytes(content))["a/1.png"]


def test_utf8_names_without_the_flag_are_decoded(listed, zipped):
    content = bytearray(zipped({"größe/1.png": b"1"}))
    for signature, offset in ((b"PK\x03\x04", 7), (b"PK\x01\x02", 9)):
        content[content.find(signature) + offset] &= ~0x08  # the UTF-8 flag, which some archivers omit

    assert listed(bytes(content)) == {"größe/1.png": b"1"}


def test_a_nested_archive_is_rejected(listed, zipped):
    assert "unpack it first" in listed(zipped({"a/inner.zip": zipped({"1.png": b"1"})}))["a/inner.zip"]


def test_a_too_large_file_is_rejected_unread(listed, zipped):
    assert "at most 10 bytes" in listed(zipped({"a/1.png": b"x" * 11}), max_file_bytes=10)["a/1.png"]


def test_a_zip_bomb_is_rejected(listed, zipped):
    bomb = zipped({f"train/a/{i}.png": b"\0" * 20_000_000 for i in range(4)}, zipfile.ZIP_DEFLATED)

    with pytest.raises(DatasetRejected, match="decompression bomb"):
        listed(bomb)


def test_a_zip_directory_with_too_many_entries_is_rejected_before_parsing(listed, zipped, monkeypatch):
    content = zipped({f"a/{i}.png": b"" for i in range(50)})
    monkeypatch.setattr(zipfile.ZipInfo, "__init__", lambda *_: pytest.fail("an entry was parsed"))

    with pytest.raises(DatasetRejected, match="more than 49 files"):
        listed(content, max_archive_files=49)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"hello", "not a supported archive; send a zip or a tar"),
        (b"", "not a supported archive"),
        (b"PAR1" + b"\0" * 600, "the Parquet file is damaged"),
        (b"7z\xbc\xaf\x27\x1c" + b"\0" * 600, "send a zip or a tar"),
        (b"Rar!\x1a\x07", "send a zip or a tar"),
        (b"\x28\xb5\x2f\xfd" + b"\0" * 600, r"tar\.gz"),
    ],
)
def test_unsupported_formats_are_rejected_with_the_supported_ones(listed, content, reason):
    with pytest.raises(DatasetRejected, match=reason):
        listed(content)


def test_a_truncated_zip_is_rejected(listed, zipped):
    content = zipped({"a/1.png": b"1" * 100})

    with pytest.raises(DatasetRejected, match="upload it again"):
        listed(content[:-40])


@given(data=st.data())
def test_a_damaged_archive_is_read_or_rejected(data, zipped, tarred, tmp_path_factory):
    files = {f"a/{i}.png": bytes([i]) * 300 for i in range(3)}
    content = data.draw(
        st.sampled_from(
            [zipped(files, zipfile.ZIP_DEFLATED)] + [tarred(files, mode) for mode in ("w", "w:gz", "w:bz2", "w:xz")]
        )
    )
    damaged = bytearray(content[: data.draw(st.integers(0, len(content)))])
    for _ in range(data.draw(st.integers(0, 4))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(damaged)

    try:
        found = list(archive_files(path, IngestLimits(max_unpacked_bytes=10_000_000)))
    except DatasetRejected:
        return
    assert all(file.reason or file.content is not None for file in found)


# --- folders ------------------------------------------------------------------------------------


def test_folder_files_are_read_in_path_order(tmp_path):
    for name in ("b/2.png", "b/1.png", "a/1.png", ".git/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())

    found = [(file.path, file.content) for file in folder_files(tmp_path, IngestLimits())]

    assert found == [("a/1.png", b"a/1.png"), ("b/1.png", b"b/1.png"), ("b/2.png", b"b/2.png")]


def test_linked_files_are_read_and_special_files_are_rejected(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "1.png").write_bytes(b"1")
    data = tmp_path / "data"
    data.mkdir()
    (data / "file.png").symlink_to(tmp_path / "real" / "1.png")
    (data / "folder").symlink_to(tmp_path / "real")
    (data / "broken.png").symlink_to(tmp_path / "nothing")
    os.mkfifo(data / "pipe.png")

    found = {file.path: file.reason or file.content for file in folder_files(data, IngestLimits())}

    assert found == {
        "file.png": b"1",
        "folder": "linked folders are not followed; copy the folder",
        "broken.png": "the file cannot be read: No such file or directory",
        "pipe.png": "not a regular file",
    }


def test_a_missing_folder_is_rejected(tmp_path):
    with pytest.raises(DatasetRejected, match="is not a folder"):
        list(folder_files(tmp_path / "nothing", IngestLimits()))


def test_limits_apply_to_folders(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"x" * 100)

    with pytest.raises(DatasetRejected, match="more than 2 files"):
        list(folder_files(tmp_path, IngestLimits(max_archive_files=2)))
    with pytest.raises(DatasetRejected, match="unpacked"):
        list(folder_files(tmp_path, IngestLimits(max_unpacked_bytes=250)))


def test_a_packed_table_leaves_nothing_in_the_scratch_folder(zipped, parquet, encoded, tmp_path):
    path, scratch = tmp_path / "upload", tmp_path / "scratch"
    scratch.mkdir()
    path.write_bytes(zipped({"a/train.parquet": parquet([(encoded(), 1)]), "b.png": encoded()}))

    files = list(archive_files(path, IngestLimits(), scratch_dir=scratch))

    assert [file.path for file in files] == ["a/train.parquet#0", "b.png"]
    assert files[0].content == encoded()
    assert list(scratch.iterdir()) == []


def test_a_damaged_packed_table_is_rejected(zipped, parquet, encoded, listed):
    table = parquet([(encoded(size=(64, 64)), 1)])
    content = bytearray(zipped({"train.parquet": table, "b.png": encoded()}))
    content[100] ^= 255

    found = listed(bytes(content))

    assert "damaged in the archive" in found["train.parquet"]
    assert found["b.png"] == encoded()

"""Names in zip archives: the Unicode Path field, UTF-8 without its flag, and encodings of other systems."""

import io
import struct
import zipfile
import zlib

import pytest

from core.ingest.archives import archive_files
from core.ingest.dataset import ingest_archive
from core.ingest.limits import IngestLimits
from core.ingest.zip_names import ZipNames
from tests.support.archives import make_zip


def entry(raw, *, flag=0, extra=b""):
    found = zipfile.ZipInfo(raw.decode("utf-8" if flag else "cp437"))
    found.flag_bits, found.extra = flag, extra
    return found


def unicode_path(raw, name, *, version=1, checksum=None):
    data = struct.pack("<BI", version, zlib.crc32(raw) if checksum is None else checksum) + name
    return struct.pack("<HH", 0x7075, len(data)) + data


def decoded(*raw_names):
    entries = [entry(raw) for raw in raw_names]
    names = ZipNames(entries)
    assert ZipNames(reversed(entries)).encoding == names.encoding
    return [names.decode(each) for each in entries]


def zip_with_names(files, *, extra=None):
    """A zip whose names have these bytes and no UTF-8 flag."""
    placeholders = {f"{index:0{len(raw)}d}": raw for index, raw in enumerate(files)}
    content = make_zip(dict(zip(placeholders, files.values(), strict=True)))
    for placeholder, raw in placeholders.items():
        content = content.replace(placeholder.encode(), raw)
    return content


def test_the_unicode_path_field_names_the_file():
    raw = b"caf\x3f/1.png"
    found = entry(raw, extra=struct.pack("<HH", 0x5455, 1) + b"x" + unicode_path(raw, "café/1.png".encode()))

    assert ZipNames([found]).decode(found) == "café/1.png"
    assert not ZipNames([found]).is_guessed


@pytest.mark.parametrize(
    "extra",
    [
        unicode_path(b"a.png", b"b.png", checksum=1),
        unicode_path(b"a.png", b"b.png", version=2),
        unicode_path(b"a.png", b"\xff\xfe"),
        struct.pack("<HH", 0x7075, 3) + b"\x01xx",
        struct.pack("<HH", 0x7075, 900),
        b"\x75",
    ],
    ids=["checksum", "version", "not UTF-8", "short", "beyond the end", "cut"],
)
def test_an_invalid_unicode_path_field_is_ignored(extra):
    found = entry(b"a.png", extra=extra)

    assert ZipNames([found]).decode(found) == "a.png"


def test_the_unicode_path_field_leads_no_path_outside(tmp_path):
    raw = b"a/1.png"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("a/1.png")
        info.extra = unicode_path(raw, b"../../1.png")
        archive.writestr(info, b"x")
    (tmp_path / "upload").write_bytes(out.getvalue())

    (file,) = archive_files(tmp_path / "upload", IngestLimits())

    assert file.reason == "the path leads outside the archive"


def test_a_declared_utf8_name_is_unchanged():
    found = entry("größe".encode(), flag=0x800)

    assert ZipNames([found]).decode(found) == "größe"


@pytest.mark.parametrize(
    ("encoding", "names"),
    [
        ("utf-8", ["größe", "猫", "ねこ"]),
        ("gbk", ["猫/1.png", "狗/2.png"]),
        ("gbk", ["训练集/猫咪/照片 1.png", "训练集/小狗/IMG_2.png"]),
        ("gbk", ["苹果fruit/1.png"]),
        ("cp932", ["猫/1.png", "犬/2.png", "鳥/3.png"]),
        ("cp932", ["ねこ/1.png", "いぬ/2.png"]),
        ("cp932", ["カテゴリー/表/1.png", "りんご apple/2.png"]),
        ("cp437", ["größe/1.png", "Äpfel/2.png"]),
        ("cp437", ["café/1.png", "niño/2.png", "forêt/3.png"]),
        ("cp1252", ["größe/1.png", "café/2.png"]),
        ("cp866", ["кошка/1.png", "собака/2.png"]),
    ],
)
def test_names_without_a_declared_encoding_are_decoded(encoding, names):
    assert decoded(*(name.encode(encoding) for name in names)) == names


def test_one_encoding_is_used_for_all_names_of_an_archive():
    """Alone, the bytes of the first name are valid UTF-8."""
    assert decoded("联通/1.png".encode("gbk"), "移动电话/1.png".encode("gbk"))[0] == "联通/1.png"


def test_guessed_names_are_a_warning_of_the_dataset(tmp_path, encoded):
    names = {
        f"{name}/{i}.png".encode("gbk"): encoded(seed=2 * i + k) for k, name in enumerate("猫狗") for i in range(3)
    }
    (tmp_path / "upload").write_bytes(zip_with_names(names))

    report = ingest_archive(tmp_path / "upload", tmp_path / "stored")

    assert report.classes == ("狗", "猫")
    (warning,) = report.warnings
    assert (warning.code, "read as gbk, e.g. 猫/0.png" in warning.message) == ("file_names_guessed", True)

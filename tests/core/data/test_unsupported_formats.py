"""Formats that are not read are named with the fix, whatever the file is called."""

import struct

import pytest

from core.data.images import BrokenImage, decode
from core.data.unsupported_formats import name_by_suffix


def box(brand, *compatible):
    body = brand + b"\0\0\0\0" + b"".join(compatible)
    return struct.pack(">I", 8 + len(body)) + b"ftyp" + body


def tiff_with(tags, at_8=b""):
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    start = 8 + len(at_8)
    return b"II*\0" + struct.pack("<I", start) + at_8 + struct.pack("<H", len(tags)) + entries + bytes(4 + 64)


GRAY_TIFF = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: 64}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (box(b"heic", b"mif1", b"heic"), "a HEIC image; convert it to JPEG"),
        (box(b"mif1", b"mif1", b"heix"), "a HEIC image; convert it to JPEG"),
        (b"\xff\x0a" + bytes(20), "a JPEG XL image; convert it to JPEG or PNG"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(20), "a JPEG XL image"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(20), "a JPEG 2000 image; convert it to PNG"),
        (b'<?xml version="1.0"?>\n<!-- drawing --><svg width="1"/>', "an SVG drawing; export it as PNG"),
        (b"8BPS\0\x01" + bytes(20), "a Photoshop document; export it as PNG"),
        (b"FUJIFILMCCD-RAW 0201", "a camera raw file; develop it to JPEG"),
        (box(b"crx ", b"crx ", b"isom"), "a camera raw file"),
        (tiff_with(GRAY_TIFF | {50706: 1}), "a camera raw file"),
        (tiff_with(GRAY_TIFF | {254: 1, 330: 8}), "a camera raw file"),
        (tiff_with(GRAY_TIFF, b"CR\x02\0"), "a camera raw file"),
        (box(b"isom", b"isom", b"mp42"), "a video; extract its frames as JPEG"),
        (box(b"qt  "), "a video"),
        (b"\x1aE\xdf\xa3" + bytes(20), "a video"),
        (b"RIFF\x10\0\0\0AVI LIST", "a video"),
        (b"%PDF-1.7\n", "a PDF document; export its pages as PNG"),
        (bytes(128) + b"DICM" + bytes(20), "a DICOM file; export it as 16-bit PNG"),
        (b"<!DOCTYPE html><title>404</title>", "a web page, not an image; download the image itself"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS.*run git lfs pull"),
        (b"\x93NUMPY\x01\0", "a file of arrays"),
    ],
)
def test_content_is_named_with_the_fix(content, reason):
    with pytest.raises(BrokenImage, match=reason) as error:
        decode(content, max_pixels=1000)
    assert error.value.code == "image_unreadable"


@pytest.mark.parametrize(
    ("suffix", "name"),
    [
        (".heic", "HEIC"),
        (".HEIF", "HEIC"),
        (".jxl", "JPEG XL"),
        (".svg", "SVG"),
        (".psd", "Photoshop"),
        (".nef", "raw"),
        (".cr3", "raw"),
        (".mp4", "video"),
        (".pdf", "PDF"),
        (".dcm", "DICOM"),
        (".exr", "floating"),
    ],
)
def test_suffixes_are_named_with_the_fix(suffix, name):
    text = name_by_suffix(suffix)

    assert name in text
    assert ";" in text


def test_other_suffixes_have_no_name():
    assert name_by_suffix(".txt") is None

"""Images with more than 8 bits per channel keep their values until the dataset's range is known."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from core.data.deep_images import DeepImage, ValueRange
from core.data.images import BrokenImage, decode, decode_values

MAX_PIXELS = 10_000
GRAY = np.array([[0, 1, 4095], [256, 513, 65535]], np.uint16)
COLOR = np.array([[[1, 2, 3], [256, 4095, 65535]]], np.uint16)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(values, color_type, *chunks):
    """Make a 16-bit PNG from values (H, W, C)."""
    height, width = values.shape[:2]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0))
    data = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in values))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def tiff(values, photometric, *, order="<", compression=1, bits=16, sample_format=1, extra=None):
    """Make a TIFF of one strip from values (H, W, C)."""
    height, width, channels = values.shape
    kind = {1: "u", 2: "i"}[sample_format] + str(bits // 8)
    data = values.astype(order + kind).tobytes()
    data = zlib.compress(data) if compression == 8 else data
    tags = {256: width, 257: height, 258: bits, 259: compression, 262: photometric, 273: 8, 277: channels}
    tags |= {278: height, 279: len(data), 339: sample_format} | ({} if extra is None else {338: extra})
    entries = b""
    after = 8 + len(data) + 2 + 12 * len(tags) + 4
    tail = b""
    for tag, value in sorted(tags.items()):
        if tag in {258, 339} and channels > 2:
            entries += struct.pack(order + "HHII", tag, 3, channels, after + len(tail))
            tail += struct.pack(order + f"{channels}H", *[value] * channels)
        else:
            entries += struct.pack(order + "HHII", tag, 4, 1, value)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    head = mark + struct.pack(order + "I", 8 + len(data)) + data
    return head + struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", 0) + tail


GRAY_FILES = {
    "png": png(GRAY[..., None], 0),
    "tiff": tiff(GRAY[..., None], 1),
    "big-endian tiff": tiff(GRAY[..., None], 1, order=">"),
    "deflated tiff": tiff(GRAY[..., None], 1, compression=8),
    "32-bit tiff": tiff(GRAY[..., None], 1, bits=32),
    "signed 32-bit tiff": tiff(GRAY[..., None], 1, bits=32, sample_format=2),
    "pgm": b"P5 3 2 65535\n" + GRAY.astype(">u2").tobytes(),
    "plain pgm": b"P2 3 2 65535\n0 1 4095 256 513 65535\n",
}
COLOR_FILES = {
    "png": png(COLOR, 2),
    "tiff": tiff(COLOR, 2),
    "big-endian tiff": tiff(COLOR, 2, order=">"),
    "deflated tiff": tiff(COLOR, 2, compression=8),
    "big-endian deflated tiff": tiff(COLOR, 2, order=">", compression=8),
    "ppm": b"P6 2 1 65535\n" + COLOR.astype(">u2").tobytes(),
}


@pytest.mark.parametrize("content", GRAY_FILES.values(), ids=GRAY_FILES)
def test_grayscale_keeps_its_values(content):
    deep = decode_values(content, max_pixels=MAX_PIXELS)

    assert deep.values[..., 0].tolist() == GRAY.tolist()
    assert (deep.is_grayscale, deep.size, deep.max_value, deep.alpha) == (True, (3, 2), 65535, None)


@pytest.mark.parametrize("content", COLOR_FILES.values(), ids=COLOR_FILES)
def test_color_keeps_its_values(content):
    deep = decode_values(content, max_pixels=MAX_PIXELS)

    assert deep.values.tolist() == COLOR.tolist()
    assert (deep.is_grayscale, deep.size, deep.max_value, deep.alpha) == (False, (2, 1), 65535, None)


def test_alpha_keeps_its_values():
    gray_alpha = np.array([[[4095, 65535], [513, 0x1234]]], np.uint16)
    rgba = np.array([[[1, 256, 4095, 0x1234]]], np.uint16)

    gray = decode_values(png(gray_alpha, 4), max_pixels=MAX_PIXELS)
    color = decode_values(png(rgba, 6), max_pixels=MAX_PIXELS)

    assert (gray.values.tolist(), gray.alpha.tolist()) == ([[[4095], [513]]], [[65535, 0x1234]])
    assert (color.values.tolist(), color.alpha.tolist()) == ([[[1, 256, 4095]]], [[0x1234]])


def test_a_transparent_value_of_a_png_is_transparent():
    content = png(GRAY[..., None], 0, chunk(b"tRNS", struct.pack(">H", 4095)))

    deep = decode_values(content, max_pixels=MAX_PIXELS)

    assert (deep.alpha == 0).tolist() == (GRAY == 4095).tolist()


def test_a_declared_maximum_is_the_full_range():
    content = b"P6 1 1 4095\n" + struct.pack(">HHH", 0, 2048, 4095)

    assert decode_values(content, max_pixels=MAX_PIXELS).values.tolist() == [[[0, 32776, 65535]]]


def test_the_exif_orientation_is_applied_to_both_bytes():
    exif = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)
    values = np.arange(6, dtype=np.uint16).reshape(2, 3) * 300
    content = png(np.repeat(values[..., None], 3, axis=2), 2, chunk(b"eXIf", exif))

    deep = decode_values(content, max_pixels=MAX_PIXELS)

    assert deep.values[..., 0].tolist() == np.rot90(values, -1).tolist()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (tiff(np.array([[[-5], [7]]]), 1, sample_format=2), "from -5 to 7.*convert it to 8 or 16 bits"),
        (tiff(np.array([[[70_000]]]), 1, bits=32), "from 70,000 to 70,000"),
        (tiff(GRAY[..., None], 0), "white as zero"),
        (tiff(np.ones((1, 1, 4)), 2, extra=1), "save it as 16-bit PNG"),
        (b"P3 1 1 65535\n1 4095 3\n", "save it as 16-bit PNG"),
    ],
)
def test_depths_that_cannot_be_read_are_rejected_with_a_fix(content, reason):
    with pytest.raises(BrokenImage, match=reason):
        decode(content, max_pixels=MAX_PIXELS)


@pytest.mark.parametrize(
    ("max_value", "bits"), [(0, 8), (255, 8), (256, 10), (1023, 10), (1024, 12), (4095, 12), (4096, 14), (65535, 16)]
)
def test_the_range_is_the_smallest_that_covers_the_maximum(max_value, bits):
    assert ValueRange.covering(max_value) == ValueRange(bits=bits, max=2**bits - 1)


def test_values_are_scaled_by_the_range():
    deep = DeepImage(np.array([[[0], [16], [2048], [4095], [9000]]], np.uint16))

    assert deep.to_8_bits(4095).tolist() == [[0, 1, 128, 255, 255]]
    assert deep.to_8_bits(255)[0, :2].tolist() == [0, 16]


def test_transparent_pixels_become_white():
    alpha = np.array([[0, 65535, 32768]], np.uint16)
    deep = DeepImage(np.full((1, 3, 3), 2048, np.uint16), alpha)

    assert deep.to_8_bits(4095)[0, :, 0].tolist() == [255, 128, 191]


def test_deep_images_decode_to_images_of_both_modes():
    gray = decode(GRAY_FILES["png"], max_pixels=MAX_PIXELS, max_value=4095)
    color = decode(COLOR_FILES["png"], max_pixels=MAX_PIXELS, max_value=4095)

    assert (gray.mode, list(gray.tobytes())) == ("L", [0, 0, 255, 16, 32, 255])
    assert (color.mode, color.getpixel((1, 0))) == ("RGB", (16, 255, 255))


def test_an_eight_bit_image_ignores_the_range(encoded):
    content = encoded(Image.new("L", (1, 1), 7))

    assert decode(content, max_pixels=MAX_PIXELS, max_value=1023).getpixel((0, 0)) == 7

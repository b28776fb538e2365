import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from core.data import images
from core.data.images import BrokenImage, PixelBuffer, decode, decode_values

MAX_PIXELS = 1_000_000


def test_a_color_image_decodes_to_rgb_with_its_pixels(encoded):
    image = Image.new("RGB", (3, 2), (10, 20, 30))

    decoded = decode(encoded(image), max_pixels=MAX_PIXELS)

    assert decoded.mode == "RGB"
    assert decoded.size == (3, 2)
    assert decoded.tobytes() == image.tobytes()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16"])
def test_grayscale_of_every_kind_becomes_l(encoded, mode):
    assert decode(encoded(Image.new(mode, (4, 4))), max_pixels=MAX_PIXELS).mode == "L"


@pytest.mark.parametrize(
    ("mode", "kind"), [("P", "PNG"), ("RGBA", "PNG"), ("CMYK", "JPEG"), ("P", "GIF"), ("CMYK", "TIFF")]
)
def test_color_of_every_kind_becomes_rgb(encoded, mode, kind):
    assert decode(encoded(mode=mode, kind=kind), max_pixels=MAX_PIXELS).mode == "RGB"


def test_cmyk_keeps_its_colors(encoded):
    red = Image.new("RGB", (8, 8), (255, 0, 0)).convert("CMYK")

    assert decode(encoded(red, kind="TIFF"), max_pixels=MAX_PIXELS).getpixel((4, 4)) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_by_their_range(encoded, kind):
    values = np.array([[0, 128, 257, 0x1234, 0xFFFF]], dtype=np.uint16)

    decoded = decode(encoded(Image.fromarray(values), kind=kind), max_pixels=MAX_PIXELS)

    assert list(decoded.tobytes()) == [0, 0, 1, 0x12, 0xFF]


def test_transparent_pixels_become_white(encoded):
    clear = Image.new("RGBA", (2, 2), (255, 0, 0, 0))

    assert decode(encoded(clear), max_pixels=MAX_PIXELS).getpixel((0, 0)) == (255, 255, 255)


def test_transparent_grayscale_stays_grayscale(encoded):
    decoded = decode(encoded(Image.new("LA", (2, 2), (0, 0))), max_pixels=MAX_PIXELS)

    assert (decoded.mode, decoded.getpixel((0, 0))) == ("L", 255)


def test_a_transparent_palette_color_becomes_white(encoded):
    palette = Image.new("P", (2, 2))
    palette.putpalette([200, 0, 0, 0, 200, 0])

    assert decode(encoded(palette, transparency=0), max_pixels=MAX_PIXELS).getpixel((0, 0)) == (255, 255, 255)


def test_exif_rotation_is_applied(encoded):
    image = Image.new("RGB", (4, 2))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored rotated: turn it by 90° clockwise

    decoded = decode(encoded(image, exif=exif), max_pixels=MAX_PIXELS)

    assert decoded.size == (2, 4)
    assert decoded.getpixel((1, 0)) == (255, 255, 255)


def test_an_animation_decodes_to_its_first_frame(encoded):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]

    decoded = decode(encoded(frames[0], kind="GIF", save_all=True, append_images=frames[1:]), max_pixels=MAX_PIXELS)

    assert decoded.getpixel((0, 0)) == (255, 0, 0)


def test_floating_point_pixels_are_rejected_with_a_fix(encoded):
    with pytest.raises(BrokenImage, match="convert it to 8 or 16 bits"):
        decode(encoded(Image.new("F", (2, 2)), kind="TIFF"), max_pixels=MAX_PIXELS)


def test_a_huge_image_is_rejected_before_its_pixels_are_decoded():
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 9_000, 9_000, 8, 2, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")

    with pytest.raises(BrokenImage, match="9000×9000 pixels, at most 64,000,000"):
        decode(content, max_pixels=64_000_000)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"hello", "not an image of a known kind"),
        (b"\x89PNG\r\n\x1a\nnot an image", "not an image of a known kind"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a PostScript file; export it as PNG"),
    ],
)
def test_content_other_than_an_image_is_rejected(content, reason):
    with pytest.raises(BrokenImage, match=reason):
        decode(content, max_pixels=MAX_PIXELS)


def test_a_truncated_image_is_rejected(encoded):
    content = encoded(size=(64, 64), kind="JPEG")

    with pytest.raises(BrokenImage, match="truncated"):
        decode(content[: len(content) // 2], max_pixels=MAX_PIXELS)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *((kind, {}) for kind in ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM")),
        ("WEBP", {"lossless": True}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.95])
def test_truncated_files_are_named(encoded, kind, options, fraction):
    content = encoded(size=(48, 48), kind=kind, **options)

    with pytest.raises(BrokenImage, match="the file is truncated, its end is missing; copy it again"):
        decode(content[: int(fraction * len(content))], max_pixels=MAX_PIXELS)


def test_avif_is_read(encoded):
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]

    still = decode(encoded(frames[1], kind="AVIF", quality=100), max_pixels=MAX_PIXELS)
    animated = decode(encoded(frames[0], kind="AVIF", save_all=True, append_images=frames[1:]), max_pixels=MAX_PIXELS)

    assert (still.mode, still.size) == ("RGB", (16, 16))
    assert np.abs(np.subtract(still.getpixel((8, 8)), (0, 0, 255))).max() < 12
    assert np.abs(np.subtract(animated.getpixel((8, 8)), (255, 0, 0))).max() < 12


def test_an_avif_file_is_turned_upright(encoded):
    exif = Image.Exif()
    exif[0x0112] = 6

    assert decode(encoded(Image.new("RGB", (32, 16)), kind="AVIF", exif=exif), max_pixels=MAX_PIXELS).size == (16, 32)


def test_the_first_page_of_a_tiff_is_read(encoded):
    pages = [Image.new("L", (4, 4), value) for value in (10, 200)]

    decoded = decode(encoded(pages[0], kind="TIFF", save_all=True, append_images=pages[1:]), max_pixels=MAX_PIXELS)

    assert decoded.getpixel((0, 0)) == 10


JPEG_KINDS = [
    *({"subsampling": subsampling, "quality": quality} for subsampling in (0, 1, 2) for quality in (30, 95)),
    {"progressive": True},
    {"optimize": True, "quality": 100},
    {"keep_rgb": True},
    {"restart_marker_blocks": 3},
]


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("options", JPEG_KINDS, ids=str)
def test_the_fast_jpeg_decoder_has_the_pixels_of_pillow(encoded, mode, options, monkeypatch):
    pytest.importorskip("simplejpeg")
    image = Image.effect_noise((61, 47), 40).convert("RGB").resize((97, 83)).convert(mode)
    if mode == "RGB":
        image = Image.merge("RGB", [image.getchannel(0), image.getchannel(1).rotate(9), image.getchannel(2).rotate(70)])
    exif = Image.Exif()
    for orientation in range(9):
        exif[0x0112] = orientation
        content = encoded(image, kind="JPEG", exif=exif, **options)
        fast = decode(content, max_pixels=MAX_PIXELS)
        with monkeypatch.context() as patch:
            patch.setattr(images, "simplejpeg", None)
            slow = decode(content, max_pixels=MAX_PIXELS)
        assert (fast.mode, fast.size, fast.tobytes()) == (slow.mode, slow.size, slow.tobytes())


def test_a_buffer_holds_one_image_after_another(encoded):
    """Images of any order of sizes."""
    pytest.importorskip("simplejpeg")
    buffer = PixelBuffer()
    for size in [(40, 30), (8, 8), (64, 48)]:
        content = encoded(Image.effect_noise(size, 40), kind="JPEG")
        pixels = decode_values(content, max_pixels=30_000_000, buffer=buffer)
        assert np.array_equal(pixels, np.asarray(decode(content, max_pixels=30_000_000)))


def test_a_large_image_gets_no_buffer():
    buffer = PixelBuffer()

    assert len(buffer.take(100)) == 100
    assert buffer.take(64 * 1024**2 + 1) is None


@given(
    kind=st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "AVIF"]),
    position=st.floats(0, 1, exclude_max=True),
    damage=st.binary(max_size=8),
)
def test_damaged_images_decode_or_raise_broken_image(kind, position, damage):
    out = io.BytesIO()
    Image.linear_gradient("L").resize((16, 16)).convert("RGB").save(out, kind)
    content = bytearray(out.getvalue())
    start = int(position * len(content))
    content[start : start + len(damage)] = damage

    try:
        decoded = decode(bytes(content), max_pixels=10_000)
    except BrokenImage:
        return
    assert decoded.mode in {"L", "RGB"}

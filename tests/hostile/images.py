"""Hostile and unusual images, each in a zip of valid ones."""

import functools
import pickle
import struct
import warnings
import zlib

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

from tests.hostile.corpus import accepted, encoded, fails, rejected_file, tree, valid_png, zipped

ODD = "train/cat/odd"


def zip_with_image(suffix, content):
    return zipped(tree({f"{ODD}.{suffix}": content}))


def decode_odd_image(stored):
    """Decode the unusual image from the stored dataset."""
    split = stored.split("train")
    index = next(i for i, path in enumerate(split.paths) if path.startswith(("cat/odd", ODD)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of Pillow
        return split.read(index)


def rejected_image(suffix, code="image_unreadable", **limits):
    """Register a function that makes an image to be rejected."""

    def decorate(make):
        build = functools.wraps(make)(lambda: zip_with_image(suffix, make()))
        rejected_file(f"{ODD}.{suffix}", code, **limits)(build)
        return make

    return decorate


def decodes(suffix, *, size=None, pixel=None, at=(0, 0), tolerance=0):
    """Register a function that makes a valid image with this size and pixel value."""

    def check(stored):
        image = decode_odd_image(stored).convert("RGB")
        assert size is None or image.size == size
        if pixel is not None:
            assert np.abs(np.subtract(image.getpixel(at), pixel)).max() <= tolerance, image.getpixel(at)

    def decorate(make):
        build = functools.wraps(make)(lambda: zip_with_image(suffix, make()))
        accepted(check)(build)
        return make

    return decorate


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *chunks, depth=8, color=2, data=b""):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def rows(width, height, value=128):
    return (b"\0" + bytes([value]) * (3 * width)) * height


# --- huge dimensions -----------------------------------------------------------------------------


@rejected_image("png", "image_too_large")
def png_of_sixty_thousand_squared():
    return png(60_000, 60_000)


@rejected_image("png", "image_too_large")
def png_of_two_billion_squared():
    return png(2**31 - 1, 2**31 - 1)


@rejected_image("png", "image_too_large")
def png_of_two_billion_by_one():
    return png(2**31 - 1, 1)


@rejected_image("png", "image_too_large", max_image_pixels=100)
def png_above_the_setting():
    return valid_png(9, (11, 10))


@rejected_image("jpg", "image_too_large")
def jpeg_of_sixty_five_thousand_squared():
    content = bytearray(encoded(Image.new("RGB", (16, 16)), "JPEG"))
    offset = content.find(b"\xff\xc0") + 5
    struct.pack_into(">HH", content, offset, 65_500, 65_500)
    return bytes(content)


@rejected_image("gif", "image_too_large")
def gif_of_sixty_five_thousand_squared():
    content = bytearray(encoded(Image.new("P", (16, 16)), "GIF"))
    struct.pack_into("<HH", content, 6, 65_535, 65_535)
    return bytes(content)


@rejected_image("gif", "image_too_large")
def gif_whose_frame_is_larger_than_its_screen():
    content = bytearray(encoded(Image.new("P", (16, 16)), "GIF"))
    offset = content.find(b"\x2c", 13)
    struct.pack_into("<HHHH", content, offset + 1, 0, 0, 65_535, 65_535)
    return bytes(content)


@rejected_image("webp", "image_too_large")
def webp_of_sixteen_thousand_squared():
    bits = 16_382 | 16_382 << 14
    body = b"VP8L" + struct.pack("<I", 6) + b"\x2f" + struct.pack("<I", bits) + b"\0"
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


@rejected_image("bmp", "image_too_large")
def bmp_of_a_billion_pixels():
    content = bytearray(encoded(Image.new("RGB", (16, 16)), "BMP"))
    struct.pack_into("<ii", content, 18, 40_000, 40_000)
    return bytes(content)


@rejected_image("ppm", "image_too_large")
def ppm_of_a_billion_pixels():
    return b"P6 40000 40000 255\n" + b"x" * 1000


@rejected_image("tif", "image_too_large")
def tiff_of_a_billion_pixels():
    return tiff({256: 40_000, 257: 40_000, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 40_000, 279: 100})


@rejected_image("png", "image_unreadable")
def png_without_pixels():
    return png(0, 0)


@fails("image_too_large")
def only_too_large_images():
    return zipped({f"train/{c}/{i}.png": png(60_000, 60_000) for c in ("cat", "dog") for i in range(3)})


# --- small files with high decoding cost ---------------------------------------------------------------


@decodes("png", size=(100, 100), pixel=(128, 128, 128))
def png_with_oversized_data():
    return png(100, 100, data=rows(100, 100) + b"\0" * 50_000_000)


@rejected_image("png")
def png_with_a_text_of_fifty_megabytes():
    return png(8, 8, chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"\0" * 50_000_000)), data=rows(8, 8))


@rejected_image("png")
def png_with_many_texts():
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(b"\0" * 1_000_000))
    return png(8, 8, *[text] * 70, data=rows(8, 8))


@rejected_image("png")
def png_with_a_color_profile_of_fifty_megabytes():
    return png(8, 8, chunk(b"iCCP", b"p\0\0" + zlib.compress(b"\0" * 50_000_000)), data=rows(8, 8))


@rejected_image("jpg")
def jpeg_with_ten_thousand_scans():
    return scans(8_000, 10_000)


@rejected_image("jpg")
def multi_image_jpeg_with_ten_thousand_scans():
    several = encoded(Image.new("L", (8, 8)), "MPO", save_all=True, append_images=[Image.new("L", (8, 8))])
    at = several.index(b"\xff\xe2")
    (length,) = struct.unpack_from(">H", several, at + 2)
    return b"\xff\xd8" + several[at : at + 2 + length] + scans(8_000, 10_000)[2:]


@rejected_image("tif")
def tiff_with_a_tile_of_sixteen_gigabytes():
    return tiff({256: 8, 257: 8, 258: 8, 259: 8, 262: 1, 277: 1, 322: 131_072, 323: 131_072, 324: 8, 325: 100})


@rejected_image("tif")
def tiff_with_four_billion_strips():
    entry = struct.pack("<HHII", 273, 4, 2**32 - 1, 8)
    return tiff({256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 277: 1}, extra=entry)


@rejected_image("tif")
def tiff_with_circular_pages():
    return tiff({256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 10**6, 277: 1, 278: 8, 279: 64}, following=8)


def scans(side, count):
    """Make a progressive JPEG whose scans encode, in a few bytes, no change of any block."""
    quantiser = b"\xff\xdb" + struct.pack(">HB", 67, 0) + b"\x01" * 64
    frame = b"\xff\xc2" + struct.pack(">HBHHB3B", 11, 8, side, side, 1, 1, 0x11, 0)
    # One Huffman code, 0: a run of 16,384 + n blocks without coefficients, with n in fourteen bits.
    table = b"\xff\xc4" + struct.pack(">HB", 20, 0x10) + b"\x01" + b"\0" * 15 + b"\xe0"
    blocks = (side // 8) ** 2
    runs = -(-blocks // 32_767)
    bits = "".join("0" + f"{16_383:014b}" for _ in range(runs))
    data = (
        int(bits.ljust(-(-len(bits) // 8) * 8, "1"), 2).to_bytes(-(-len(bits) // 8), "big").replace(b"\xff", b"\xff\0")
    )
    scan = b"\xff\xda" + struct.pack(">HB2B3B", 8, 1, 1, 0, 1, 63, 0) + data
    return b"\xff\xd8" + quantiser + frame + table + scan * count + b"\xff\xd9"


def tiff(tags, *, extra=b"", following=0):
    """Make a TIFF from integers by tag."""
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items())]
    entries += [extra] if extra else []
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + struct.pack("<I", following)


# --- damage and disguise --------------------------------------------------------------------------


@rejected_image("png")
def truncated_png():
    return valid_png(9, (64, 64))[:-2000]


@rejected_image("jpg")
def truncated_jpeg():
    return encoded(Image.effect_noise((64, 64), 50), "JPEG")[:-500]


@rejected_image("webp")
def truncated_webp():
    return encoded(Image.effect_noise((64, 64), 50).convert("RGB"), "WEBP")[:-200]


@rejected_image("gif")
def gif_without_a_frame():
    return b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0) + b"\x3b"


@rejected_image("png")
def png_with_a_wrong_checksum():
    content = bytearray(valid_png(9))
    content[20] ^= 1
    return bytes(content)


@rejected_image("png")
def png_corrupt_at_the_end():
    content = bytearray(valid_png(9, (64, 64)))
    content[-40:-20] = b"\xff" * 20
    return bytes(content)


@rejected_image("png")
def postscript_named_png():
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n"


@rejected_image("png")
def svg_named_png():
    return b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'


@rejected_image("jpg")
def pickle_named_jpeg():
    return pickle.dumps({"a": [1, 2, 3]})


@rejected_image("jpg")
def web_page_named_jpeg():
    return b"<!doctype html><script>alert(1)</script>"


@rejected_image("png")
def empty_file_named_png():
    return b""


@rejected_image("tif")
def tiff_of_floats():
    return encoded(Image.new("F", (8, 8)), "TIFF")


@rejected_image("svg", "not_an_image")
def svg_named_svg():
    return b"<svg/>"


# --- unusual but valid --------------------------------------------------------------------------------


def _rotated(orientation):
    image = Image.new("RGB", (40, 20))
    image.paste((255, 255, 255), (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, "JPEG", exif=exif, quality=95)


@decodes("jpg", size=(20, 40), pixel=(255, 255, 255), at=(16, 3), tolerance=12)
def jpeg_with_orientation_6():
    return _rotated(6)


@decodes("jpg", size=(20, 40), pixel=(255, 255, 255), at=(3, 36), tolerance=12)
def jpeg_with_orientation_8():
    return _rotated(8)


@decodes("jpg", size=(40, 20), pixel=(255, 255, 255), at=(36, 16), tolerance=12)
def jpeg_with_orientation_3():
    return _rotated(3)


@decodes("jpg", size=(40, 20), pixel=(255, 255, 255), at=(36, 3), tolerance=12)
def jpeg_with_orientation_2():
    return _rotated(2)


@decodes("jpg", size=(40, 20))
def jpeg_with_invalid_orientation():
    return _rotated(99)


@decodes("jpg", size=(16, 16))
def jpeg_with_invalid_exif():
    return encoded(Image.new("RGB", (16, 16)), "JPEG", exif=b"Exif\0\0II*\0" + b"\xff" * 100)


@decodes("png", pixel=(73, 73, 73))  # 0x1234 of 14 bits
def png_of_16_bit_gray():
    return encoded(Image.fromarray(np.full((8, 8), 0x1234, dtype=np.uint16)))


@decodes("png", pixel=(0x12, 0x56, 0x9A))
def png_of_16_bit_rgb():
    pixel = struct.pack(">HHH", 0x1234, 0x5678, 0x9ABC)
    return png(4, 4, depth=16, data=(b"\0" + pixel * 4) * 4)


@decodes("jpg", pixel=(255, 0, 0), tolerance=12)
def cmyk_jpeg():
    return encoded(Image.new("RGB", (8, 8), (255, 0, 0)).convert("CMYK"), "JPEG", quality=95)


@decodes("png", pixel=(255, 255, 255))
def png_with_a_palette_and_transparency():
    palette = Image.new("P", (8, 8))
    palette.putpalette([200, 0, 0, 0, 200, 0])
    return encoded(palette, transparency=0)


@decodes("png", pixel=(255, 255, 255))
def transparent_png():
    return encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 0)))


@decodes("png", pixel=(77, 77, 77))
def grayscale_png():
    return encoded(Image.new("L", (8, 8), 77))


@decodes("png", pixel=(255, 255, 255))
def bilevel_png():
    return encoded(Image.new("1", (8, 8), 1))


FRAMES = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "lime")]


@decodes("gif", pixel=(255, 0, 0))
def animated_gif():
    return encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:])


@decodes("webp", pixel=(255, 0, 0), tolerance=12)
def animated_webp():
    return encoded(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:], lossless=True)


@decodes("png", pixel=(255, 0, 0))
def animated_png():
    return encoded(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:])


@decodes("tif", pixel=(255, 0, 0))
def tiff_of_several_pages():
    return encoded(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:])


@decodes("jpg", pixel=(10, 200, 30), tolerance=12)
def jpeg_with_a_color_profile():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return encoded(Image.new("RGB", (8, 8), (10, 200, 30)), "JPEG", icc_profile=profile, quality=95)


@decodes("png", pixel=(128, 128, 128))
def png_with_an_invalid_color_profile():
    return png(8, 8, chunk(b"iCCP", b"p\0\0" + zlib.compress(b"no profile")), data=rows(8, 8))


@decodes("png", size=(1, 1))
def png_of_one_pixel():
    return encoded(Image.new("RGB", (1, 1)))


@decodes("jpg", pixel=(255, 0, 0), tolerance=12)
def png_named_jpeg():
    return encoded(FRAMES[0], "PNG")


@decodes("png", size=(8, 8))
def png_with_a_script_in_its_text():
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "<script>alert(1)</script>" * 100)
    return encoded(FRAMES[1], pnginfo=text)


@decodes("jpg", size=(64, 64))
def jpeg_with_ten_scans():
    return encoded(Image.effect_noise((64, 64), 50), "JPEG", progressive=True)

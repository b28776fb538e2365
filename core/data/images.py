"""Decode the bytes of one image file to 8-bit grayscale or RGB: upright, first frame.

The bytes are untrusted. Only raster formats are read (no EPS, which starts another program), the size is checked
before any pixel is decoded, and every error of a decoder becomes a :class:`BrokenImage` with a reason for the user.
"""

from __future__ import annotations

import io

from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)

_GRAYSCALE_MODES = frozenset({"1", "L", "LA", "La"})
_BACKGROUND = 255  # white behind transparent pixels, as in image viewers
_START_OF_SCAN = b"\xff\xda"  # inside the data of a scan, 0xFF is always followed by zero or a restart marker
_MAX_SCANS = 100
_MAX_REASON = 200  # characters of a decoder's message


class BrokenImage(Exception):
    """The bytes are not a readable image. The text is the reason for the user, ``code`` a stable identifier."""

    def __init__(self, reason: str, *, code: str = "image_unreadable") -> None:
        super().__init__(reason)
        self.code = code


def decode(content: bytes, *, max_pixels: int, min_side: int | None = None) -> Image.Image:
    """Decode an image file to mode ``L`` or ``RGB``, as a viewer shows its first frame.

    EXIF rotation is applied, transparency is blended with white, 16-bit grayscale keeps its upper 8 bits, CMYK and
    palettes become RGB. The file's mode decides whether an image is grayscale, not its colors.

    With ``min_side``, a JPEG may be decoded at a half, quarter or eighth of its size: the smallest of them whose
    shorter side has ``min_side`` pixels or more. The decoder then computes fewer pixels.

    Raises:
        BrokenImage: The file cannot be read, or has more than ``max_pixels`` pixels. Pillow's own limit of about 179
            million pixels applies too.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_size(image.size, max_pixels)
            _check_scans(image, content)
            if min_side is not None and image.format == "JPEG":
                image.draft(None, (min_side, min_side))
            image.load()
            return _to_l_or_rgb(ImageOps.exif_transpose(image))
    except (BrokenImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise BrokenImage(_unidentified(content)) from None
    except Image.DecompressionBombError:
        raise BrokenImage(
            f"far more than {max_pixels:,} pixels; make the image smaller", code="image_too_large"
        ) from None
    except Exception as error:
        # Decoders raise errors of their parsers (SyntaxError, struct.error, KeyError, ...).
        raise BrokenImage(f"the image cannot be decoded: {_error_text(error)}") from error


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise BrokenImage("the image has no pixels")
    if width * height > max_pixels:
        raise BrokenImage(
            f"the image has {width}×{height} pixels, at most {max_pixels:,} are accepted; make it smaller",
            code="image_too_large",
        )


def _check_scans(image: Image.Image, content: bytes) -> None:
    """Reject a progressive JPEG that updates all pixels for every few bytes.

    Pillow reports the format as MPO if the header announces further images, whether they exist or not.
    """
    if image.format in {"JPEG", "MPO"} and (scans := content.count(_START_OF_SCAN)) > _MAX_SCANS:
        raise BrokenImage(f"the image has {scans:,} scans, ordinary images have about ten; save it again")


def _to_l_or_rgb(image: Image.Image) -> Image.Image:
    is_grayscale = image.mode in _GRAYSCALE_MODES
    if image.mode.startswith("I"):
        image, is_grayscale = _upper_byte(image), True
    elif image.mode == "F":
        raise BrokenImage("the image has floating-point pixels of unknown range; convert it to 8 bits")
    elif image.has_transparency_data:
        foreground = image.convert("RGBA")
        image = Image.new("RGBA", foreground.size, (_BACKGROUND,) * 4)
        image.alpha_composite(foreground)
    return image.convert("L" if is_grayscale else "RGB")


def _upper_byte(image: Image.Image) -> Image.Image:
    """Convert 16-bit grayscale (``I;16``, or ``I``, which Pillow uses for 16-bit PNM) to 8 bits."""
    wide = image.convert("I")
    return wide.point(lambda value: value * (1 / 256)).convert("L")


def _unidentified(content: bytes) -> str:
    if not content:
        return "the file is empty"
    return f"not an image of a known kind ({', '.join(FORMATS)}), or its header is broken"


def _error_text(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _MAX_REASON else text[: _MAX_REASON - 1] + "…"

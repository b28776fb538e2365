"""From the bytes of one image file to an 8-bit picture: greyscale or RGB, upright, first frame.

The bytes may be hostile. Only formats with a plain raster are read (no EPS, which starts another
program), the size is checked before any pixel is decoded, and whatever a decoder raises becomes a
:class:`BrokenImage` with a reason that can be shown.
"""

from __future__ import annotations

import io

from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)

_GREY_MODES = frozenset({"1", "L", "LA", "La"})
_BACKGROUND = 255  # transparent pixels are shown on white, as a viewer does
_START_OF_SCAN = b"\xff\xda"  # within the data of a scan, 0xFF is always followed by zero or a restart mark
_MAX_SCANS = 100
_MAX_REASON = 200  # characters of a decoder's own words


class BrokenImage(Exception):
    """These bytes are not an image that can be read; the text says why, ``code`` in one stable word."""

    def __init__(self, reason: str, *, code: str = "image_unreadable") -> None:
        super().__init__(reason)
        self.code = code


def decode(content: bytes, *, max_pixels: int) -> Image.Image:
    """Decode an image file to mode ``L`` or ``RGB``, as a viewer would show its first frame.

    EXIF rotation is applied, transparency is shown on white, 16-bit greyscale keeps its upper 8 bits,
    CMYK and palettes become RGB. An image is greyscale if its file says so, not if its colours happen
    to be equal. Raises :class:`BrokenImage` for what cannot be read or has more than ``max_pixels``
    (Pillow's own limit of about 179 million stays in force).
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_size(image.size, max_pixels)
            _check_scans(image, content)
            image.load()
            return _plain(ImageOps.exif_transpose(image))
    except (BrokenImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise BrokenImage(_unidentified(content)) from None
    except Image.DecompressionBombError:
        raise BrokenImage(
            f"far more than {max_pixels:,} pixels; make the image smaller", code="image_too_large"
        ) from None
    except Exception as error:
        # A decoder raises whatever its parser ran into (SyntaxError, struct.error, KeyError, ...).
        raise BrokenImage(f"the image cannot be decoded: {_words(error)}") from error


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
    """Refuse a progressive JPEG that goes over all pixels again for every few bytes.

    Pillow calls it MPO where its header says that other pictures follow, whether they do or not.
    """
    if image.format in {"JPEG", "MPO"} and (scans := content.count(_START_OF_SCAN)) > _MAX_SCANS:
        raise BrokenImage(f"the image has {scans:,} scans, ordinary ones have about ten; save it anew")


def _plain(image: Image.Image) -> Image.Image:
    grey = image.mode in _GREY_MODES
    if image.mode.startswith("I"):
        image, grey = _upper_byte(image), True
    elif image.mode == "F":
        raise BrokenImage("the image has floating-point pixels of unknown range; convert it to 8 bits")
    elif image.has_transparency_data:
        shown = image.convert("RGBA")
        image = Image.new("RGBA", shown.size, (_BACKGROUND,) * 4)
        image.alpha_composite(shown)
    return image.convert("L" if grey else "RGB")


def _upper_byte(image: Image.Image) -> Image.Image:
    """16-bit greyscale (``I;16``, or ``I``, in which Pillow holds 16-bit PNM) to 8 bits."""
    wide = image.convert("I")
    return wide.point(lambda value: value * (1 / 256)).convert("L")


def _unidentified(content: bytes) -> str:
    if not content:
        return "the file is empty"
    return f"not an image of a known kind ({', '.join(FORMATS)}), or its header is broken"


def _words(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _MAX_REASON else text[: _MAX_REASON - 1] + "…"

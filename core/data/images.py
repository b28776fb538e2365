"""Decode the bytes of one image file to grayscale or RGB: upright, first frame.

The bytes are untrusted. Only raster formats are read (no EPS, which starts another program), the size is checked
before any pixel is decoded, and every error of a decoder becomes a :class:`BrokenImage` with a reason for the user.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import AvifImagePlugin, ExifTags, Image, ImageOps, UnidentifiedImageError

from core.data.deep_images import MAX_VALUE, DeepImage, UnreadableDepth, is_deep, read_deep
from core.data.unsupported_formats import is_camera_raw, is_shorter_than_declared, name_by_content

try:
    import simplejpeg
except ImportError:  # no wheel for this platform: Pillow decodes the same pixels, in half as long again
    simplejpeg = None

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM")
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".gif", ".bmp", ".dib", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)

_GRAYSCALE_MODES = frozenset({"1", "L", "LA", "La"})
_BACKGROUND = 255  # white behind transparent pixels, as in image viewers
_START_OF_SCAN = b"\xff\xda"  # inside the data of a scan, 0xFF is always followed by zero or a restart marker
_MAX_SCANS = 100
_MAX_REASON = 200  # characters of a decoder's message
_MAX_BUFFER_BYTES = 64 * 1024**2
_JPEG_COLORS = {"L": "GRAY", "RGB": "RGB"}  # by Pillow's mode; CMYK is left to Pillow

AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # images are decoded in parallel already

Decoded = npt.NDArray[np.uint8] | DeepImage  # 8-bit pixels (H, W) or (H, W, 3), or deep ones


class BrokenImage(Exception):
    """The bytes are not a readable image. The text is the reason for the user, ``code`` a stable identifier."""

    def __init__(self, reason: str, *, code: str = "image_unreadable") -> None:
        super().__init__(reason)
        self.code = code


def decode(content: bytes, *, max_pixels: int, min_side: int | None = None, max_value: int = MAX_VALUE) -> Image.Image:
    """Decode an image file to mode ``L`` or ``RGB``, as a viewer shows its first frame.

    EXIF rotation is applied, transparency is blended with white, CMYK and palettes become RGB. The file's mode
    decides whether an image is grayscale, not its colors.

    Args:
        content: The file.
        max_pixels: Limit on width times height.
        min_side: A JPEG may be decoded at a half, quarter or eighth of its size: the smallest of them whose shorter
            side has this many pixels or more. The decoder then computes fewer pixels. None: at its full size.
        max_value: The value that becomes 255 in an image with more than 8 bits per channel (``Index.value_range``).

    Raises:
        BrokenImage: The file cannot be read, or has more than ``max_pixels`` pixels. Pillow's own limit of about 179
            million pixels applies too.
    """
    decoded = _decode(content, max_pixels, min_side=min_side)
    if isinstance(decoded, Image.Image):
        return decoded
    return Image.fromarray(decoded.to_8_bits(max_value) if isinstance(decoded, DeepImage) else decoded)


class PixelBuffer:
    """Memory for the pixels of one image at a time. New memory for each would cost a page fault for every 4 KiB."""

    def __init__(self) -> None:
        self._memory = bytearray()

    def take(self, num_bytes: int) -> memoryview | None:
        """Return memory of this size, which the next call returns again; None for images too large to keep it."""
        if num_bytes > _MAX_BUFFER_BYTES:
            return None
        if num_bytes > len(self._memory):
            self._memory = bytearray(num_bytes)
        return memoryview(self._memory)[:num_bytes]


def decode_values(content: bytes, *, max_pixels: int, buffer: PixelBuffer | None = None) -> Decoded:
    """Decode an image file like :func:`decode`, but leave the values of deep images as they are.

    With a ``buffer``, the result is valid until the next call with this buffer.
    """
    decoded = _decode(content, max_pixels, buffer=buffer)
    return np.asarray(decoded) if isinstance(decoded, Image.Image) else decoded


def _decode(
    content: bytes, max_pixels: int, *, min_side: int | None = None, buffer: PixelBuffer | None = None
) -> Image.Image | Decoded:
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_size(image.size, max_pixels)
            _check_scans(image, content)
            _check_camera_raw(image, content)
            if is_deep(image):
                return read_deep(image, content)
            is_scaled = min_side is not None and _scale_jpeg(image, min_side)
            pixels = None if is_scaled else _decode_jpeg(image, content, buffer)
            if pixels is not None:
                return pixels
            image.load()
            return _to_l_or_rgb(_upright(image))
    except (BrokenImage, MemoryError):
        raise
    except UnreadableDepth as error:
        raise BrokenImage(str(error)) from None
    except UnidentifiedImageError:
        raise BrokenImage(_unidentified(content)) from None
    except Image.DecompressionBombError:
        raise BrokenImage(
            f"far more than {max_pixels:,} pixels; make the image smaller", code="image_too_large"
        ) from None
    except Exception as error:
        # Decoders raise errors of their parsers (SyntaxError, struct.error, KeyError, ...).
        raise BrokenImage(_decoder_reason(error, content)) from error


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

    Pillow reports the format as MPO if the header announces further images, whether they exist or not. A baseline
    scan has at least two bits for each block, so its cost is in proportion to the file.
    """
    is_progressive = image.format in {"JPEG", "MPO"} and "progressive" in image.info
    if is_progressive and (scans := content.count(_START_OF_SCAN)) > _MAX_SCANS:
        raise BrokenImage(f"the image has {scans:,} scans, ordinary images have about ten; save it again")


def _check_camera_raw(image: Image.Image, content: bytes) -> None:
    if is_camera_raw(content, getattr(image, "tag_v2", None)):
        raise BrokenImage("the file is a camera raw file; develop it to JPEG")


def _scale_jpeg(image: Image.Image, min_side: int) -> bool:
    """Let Pillow decode a JPEG at a fraction of its size where ``min_side`` allows it; return whether it will."""
    size = image.size
    if image.format == "JPEG":
        image.draft(None, (min_side, min_side))
    return image.size != size


def _decode_jpeg(image: Image.Image, content: bytes, buffer: PixelBuffer | None = None) -> npt.NDArray[np.uint8] | None:
    """Decode a JPEG file with libjpeg-turbo's own interface, upright; return None to leave it to Pillow.

    The pixels are those of Pillow, which takes half as long again. Pillow decides about files with any damage.
    """
    if (
        simplejpeg is None
        or image.format not in {"JPEG", "MPO"}
        or image.mode not in _JPEG_COLORS
        or image.has_transparency_data
    ):
        return None
    width, height = image.size
    memory = None if buffer is None else buffer.take(width * height * len(image.mode))
    try:
        pixels = simplejpeg.decode_jpeg(content, _JPEG_COLORS[image.mode], buffer=memory)
    except ValueError:
        return None
    if pixels.shape[:2] != (height, width):
        return None
    pixels = pixels[..., 0] if image.mode == "L" else pixels
    return np.ascontiguousarray(_turned(pixels, _orientation(image)))


def _turned(pixels: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Apply an EXIF orientation to pixels (H, W) or (H, W, 3); unknown ones change nothing."""
    if orientation in {5, 6, 7, 8}:
        pixels = pixels.swapaxes(0, 1)
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    return pixels


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation. Pillow's function copies upright images too."""
    return image if _orientation(image) == 1 else ImageOps.exif_transpose(image)


def _orientation(image: Image.Image) -> int:
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation if isinstance(orientation, int) else 1


def _to_l_or_rgb(image: Image.Image) -> Image.Image:
    mode = "L" if image.mode in _GRAYSCALE_MODES else "RGB"
    if image.mode == "F":
        raise BrokenImage("the image has floating-point pixels of unknown range; convert it to 8 or 16 bits")
    if image.has_transparency_data:
        foreground = image.convert("RGBA")
        image = Image.new("RGBA", foreground.size, (_BACKGROUND,) * 4)
        image.alpha_composite(foreground)
    return image if image.mode == mode else image.convert(mode)


def _unidentified(content: bytes) -> str:
    if not content:
        return "the file is empty"
    if (name := name_by_content(content)) is not None:
        return f"the file is {name}"
    if is_shorter_than_declared(content):
        return "the file is truncated, its end is missing; copy it again"
    return f"not an image of a known kind ({', '.join(FORMATS)}), or its header is broken"


def _decoder_reason(error: Exception, content: bytes) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    text = text if len(text) <= _MAX_REASON else text[: _MAX_REASON - 1] + "…"
    if "truncated" in text.lower() or is_shorter_than_declared(content):
        return f"the file is truncated, its end is missing; copy it again ({text})"
    return f"the image cannot be decoded, it is damaged; save it again ({text})"

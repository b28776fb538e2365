"""Images with more than 8 bits per channel: their values, and their conversion to 8 bits by the dataset's range.

Scanners, microscopes and medical devices store 10, 12 or 14 bits in 16-bit files. So the full range of the file is
not the range of the image: 12-bit data divided by 256 keeps 16 gray levels. A dataset has one range, the smallest
usual number of bits that covers all its images (:class:`ValueRange`).

Shapes: H height, W width, C channels (1 or 3).
"""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, Field

MAX_VALUE = 2**16 - 1
_BIT_DEPTHS = (8, 10, 12, 14, 16)
_BACKGROUND = 255  # white behind transparent pixels, as in image viewers
_BYTE_ORDERS = {"B": "big", "L": "little", "N": sys.byteorder}
_OTHER_ORDER = {"big": "L", "little": "B"}
_COLOR_MODES = {"RGB": "RGB", "RGBA": "RGBA", "RGBX": "RGB"}  # raw mode without its depth: the channels that count
_WHITE_IS_ZERO, _PHOTOMETRIC = 0, 262  # TIFF

Values = npt.NDArray[np.uint16]


class UnreadableDepth(Exception):
    """The pixels have a depth or an encoding that cannot be converted; the text is the reason with the fix."""


class ValueRange(BaseModel):
    """The values of a dataset's deep images: 0 to ``max``, which is ``2**bits - 1``."""

    model_config = ConfigDict(frozen=True)

    bits: int = Field(ge=8, le=16)
    max: int = Field(ge=1, le=MAX_VALUE)

    @classmethod
    def covering(cls, max_value: int) -> ValueRange:
        """Return the smallest usual range that includes ``max_value``."""
        bits = next(bits for bits in _BIT_DEPTHS if max_value < 2**bits)
        return cls(bits=bits, max=2**bits - 1)


@dataclass(frozen=True, slots=True, eq=False)
class DeepImage:
    """Values as stored, uint16 (H, W, C), and the opacity in 0…65535, uint16 (H, W), or None for an opaque image."""

    values: Values
    alpha: Values | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        height, width, _ = self.values.shape
        return width, height

    @property
    def is_grayscale(self) -> bool:
        """Whether the image has one channel."""
        return bool(self.values.shape[2] == 1)

    @property
    def max_value(self) -> int:
        """The largest value."""
        return int(self.values.max())

    def to_8_bits(self, max_value: int) -> npt.NDArray[np.uint8]:
        """Scale 0…``max_value`` to 0…255 and blend transparent pixels with white: uint8 (H, W) or (H, W, 3)."""
        pixels = _scaling(max_value)[self.values]
        if self.alpha is not None:
            opacity = _scaling(MAX_VALUE)[self.alpha][..., None].astype(np.uint16)
            blended = pixels * opacity + (_BACKGROUND * (255 - opacity) + 127)
            pixels = (blended // 255).astype(np.uint8)
        return pixels[..., 0] if self.is_grayscale else pixels


def _scaling(max_value: int) -> npt.NDArray[np.uint8]:
    """Lookup table of 65,536 entries: 0…``max_value`` to 0…255, rounded; larger values become 255."""
    values = np.minimum(np.arange(MAX_VALUE + 1, dtype=np.int64), max_value)
    return ((values * 255 + max_value // 2) // max_value).astype(np.uint8)


def is_deep(image: Image.Image) -> bool:
    """Whether an opened image has more than 8 bits per channel that Pillow would drop. CMYK counts as 8 bits."""
    if image.mode.startswith("I"):
        return True
    codec, raw_mode, max_value = _tile(image)
    return (raw_mode.partition(";")[0] in {*_COLOR_MODES, "RGBa", "LA"} and ";16" in raw_mode) or (
        codec.startswith("ppm") and max_value > 255
    )


def read_deep(image: Image.Image, content: bytes) -> DeepImage:
    """Read the values of an opened image for which :func:`is_deep` holds. ``content`` is its file.

    Raises:
        UnreadableDepth: The values are negative or above 65,535, or the encoding is not supported.
    """
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        raise UnreadableDepth("the image stores white as zero; save it with black as zero")
    codec, raw_mode, max_value = _tile(image)
    if codec == "ppm_plain" and image.mode == "RGB":
        raise UnreadableDepth("the image is a text file with more than 8 bits per channel; save it as 16-bit PNG")
    transparent = image.info.get("transparency")
    if codec == "ppm":
        deep = _read_ppm(image, content, max_value)
    elif image.mode.startswith("I"):
        deep = _read_grayscale(image)
    elif raw_mode == "LA;16B":
        deep = _read_gray_alpha(image, content)
    else:
        deep = _read_color(image, content, raw_mode)
    return deep if transparent is None or deep.alpha is not None else _with_transparent_value(deep, transparent)


def _tile(image: Image.Image) -> tuple[str, str, int]:
    """Return codec, raw mode and, for PNM files, the declared maximum of the first tile, before it is loaded."""
    tiles: list[Any] = getattr(image, "tile", [])
    if not tiles:
        return "", "", 0
    codec, _, _, arguments = tiles[0]
    first, *rest = arguments if isinstance(arguments, tuple) else (arguments,)
    max_value = rest[0] if codec.startswith("ppm") and rest else 0
    return codec, first if isinstance(first, str) else "", max_value if isinstance(max_value, int) else 0


def _read_grayscale(image: Image.Image) -> DeepImage:
    image.load()
    values = np.asarray(ImageOps.exif_transpose(image))
    if values.dtype.itemsize > 2:
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > MAX_VALUE:
            raise UnreadableDepth(
                f"the pixels are integers from {low:,} to {high:,}, not from 0 to {MAX_VALUE:,}; convert it to 8 or "
                "16 bits"
            )
    return DeepImage(values.astype(np.uint16)[..., None])


def _read_color(image: Image.Image, content: bytes, raw_mode: str) -> DeepImage:
    """Read 16-bit RGB or RGBA with two decodes, because Pillow returns one byte of each value."""
    kind, _, depth = raw_mode.partition(";16")
    if kind not in _COLOR_MODES or depth not in _BYTE_ORDERS:
        raise UnreadableDepth(f"16-bit pixels of the kind {raw_mode} are not supported; save it as 16-bit PNG")
    high = _decode_as(image, content, raw_mode)
    low = _decode_as(image, content, f"{kind};16{_OTHER_ORDER[_BYTE_ORDERS[depth]]}")
    values: Values = high.astype(np.uint16) << np.uint16(8) | low
    if _COLOR_MODES[kind] == "RGBA":
        return DeepImage(values[..., :3], values[..., 3])
    return DeepImage(values[..., :3])


def _read_gray_alpha(image: Image.Image, content: bytes) -> DeepImage:
    """Read 16-bit grayscale with alpha of a PNG as four bytes a pixel: two of the value, two of the opacity."""
    bytes_ = _decode_as(image, content, "RGBA").astype(np.uint16)
    values: Values = bytes_[..., 0::2] << np.uint16(8) | bytes_[..., 1::2]
    return DeepImage(values[..., :1], values[..., 1])


def _read_ppm(image: Image.Image, content: bytes, max_value: int) -> DeepImage:
    """Read a binary PNM with two bytes a value. Its header declares the range, which becomes 0…65,535."""
    if image.mode == "RGB":
        high, low = (_decode_as(image, content, raw_mode, codec="raw") for raw_mode in ("RGB;16B", "RGB;16L"))
        values = high.astype(np.uint16) << np.uint16(8) | low
    else:
        values = _decode_as(image, content, "I;16B", codec="raw").astype(np.uint16)[..., None]
    scale = np.minimum(np.arange(MAX_VALUE + 1), max_value) * MAX_VALUE / max_value
    return DeepImage(np.rint(scale).astype(np.uint16)[values])


def _decode_as(image: Image.Image, content: bytes, raw_mode: str, *, codec: str | None = None) -> npt.NDArray[Any]:
    """Decode the file of ``image`` again, with pixels that are interpreted as ``raw_mode``, upright."""
    assert image.format is not None, "the image was opened from a file"
    with Image.open(io.BytesIO(content), formats=(image.format,)) as again:
        tiles: list[Any] = again.tile
        again.tile = [
            tile._replace(codec_name=codec or tile.codec_name, args=_with_raw_mode(tile.args, raw_mode, codec))
            for tile in tiles
        ]
        again.load()
        return np.asarray(ImageOps.exif_transpose(again))


def _with_raw_mode(arguments: Any, raw_mode: str, codec: str | None) -> Any:
    if codec is not None or not isinstance(arguments, tuple):
        return raw_mode
    return (raw_mode, *arguments[1:])


def _with_transparent_value(deep: DeepImage, value: Any) -> DeepImage:
    """Make the pixels of one value transparent; PNG declares it outside of the pixels."""
    if not isinstance(value, int | tuple):
        return deep
    is_transparent = np.all(deep.values == np.array(value, dtype=np.int64), axis=2)
    return DeepImage(deep.values, np.where(is_transparent, 0, MAX_VALUE).astype(np.uint16))

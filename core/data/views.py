"""A view is a row of numbers: every random draw of augmentation and order, replayable anywhere.

For (seed, view) there is one table of uniform numbers, a row a sample, a named column a draw. The
numbers are the raw stream of Philox 4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as
1, 2, 3"), which numpy keeps stable. Row i has counter blocks of its own, so it depends neither on how
many samples there are nor on which are asked for.

:func:`apply_view` turns a batch of pictures and its rows into augmented pictures, as tensor operations
on any device. A sample's result has the same bits in every batch: only operations are used that IEEE
754 rounds exactly or that work within one sample, and sums are taken over integers (a float sum or an
exponential may differ in its last bit with a sample's place in the batch).

Shapes: B batch, C channels (1 or 3), H and W pixels, K columns, N samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from core.spec.job import Augmentation

NUM_COLUMNS = 32  # a multiple of 8: a row is a whole number of Philox blocks (4 × 64 bits, 2 draws each)


class Column(IntEnum):
    """What each number of a row decides. Numbers stand for ever: a new draw takes the next free column."""

    CROP_X = 0
    CROP_Y = 1
    SCALE = 2
    RATIO = 3
    FLIP = 4
    BRIGHTNESS = 5
    CONTRAST = 6
    SATURATION = 7
    HUE = 8
    ERASE = 9
    ERASE_AREA = 10
    ERASE_RATIO = 11
    ERASE_X = 12
    ERASE_Y = 13
    ERASE_RED = 14
    ERASE_GREEN = 15
    ERASE_BLUE = 16
    MIX_PARTNER = 17  # this one and the next four are read by core.data.mixing
    MIX_LAMBDA = 18
    MIX_KIND = 19
    MIX_X = 20
    MIX_Y = 21


MIN_CROP_AREA = 0.35  # of the picture; smaller crops suit longer schedules than a distillation has
MAX_CROP_RATIO = 4 / 3  # width to height, or the other way round (Szegedy et al. 2015, arXiv:1409.4842)
COLOUR_STRENGTH = 0.4  # factors 0.6 to 1.4
ERASE_CHANCE = 0.25  # random erasing (Zhong et al. 2017, arXiv:1708.04896), as DeiT uses it
MIN_ERASED_AREA, MAX_ERASED_AREA = 0.02, 1 / 3
MAX_ERASE_RATIO = 3.3

_TABLE, _ORDER = 0, 1  # domains of the generator's key, so that no two uses share a stream
_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601
_FIXED_POINT = 65_536.0


# --- draws --------------------------------------------------------------------------------------


def view_table(seed: int, view: int, num_samples: int, *, first: int = 0) -> Tensor:
    """The numbers of one view: float32 (N, NUM_COLUMNS), uniform in [0, 1).

    ``first`` is the index of the first row that is wanted, so that a table can be made in blocks.
    """
    blocks_per_row = NUM_COLUMNS // 8
    raw = _raw(_TABLE, seed, view, num_samples * NUM_COLUMNS // 2, first_block=first * blocks_per_row)
    words = raw.astype("<u8", copy=False).view("<u4")  # little-endian halves: the same on every machine
    numbers = (words >> 8).astype(np.float32) * np.float32(2**-24)  # 24 bits: exact in float32, below 1
    return torch.from_numpy(numbers.reshape(num_samples, NUM_COLUMNS))


def view_of_epoch(epoch: int, views: int | None) -> int:
    """Which view an epoch (from 0) shows: ``views`` of them in turn, or a new one every time."""
    return epoch if views is None else epoch % views


def num_views(epochs: int, views: int | None) -> int:
    """How many different views so many epochs show."""
    return min(epochs, views or epochs)


def epoch_order(seed: int, epoch: int, num_samples: int) -> Tensor:
    """The order of an epoch: int64 (N,), a permutation drawn from (seed, epoch)."""
    raw = _raw(_ORDER, seed, epoch, num_samples)
    return torch.from_numpy(np.argsort(raw, kind="stable"))


def steps_per_epoch(num_samples: int, batch_size: int) -> int:
    """How many batches :func:`batches` makes of an epoch."""
    return -(-num_samples // batch_size)


def batches(order: Tensor, batch_size: int, *, start: int = 0) -> Iterator[Tensor]:
    """Split an epoch's order into batches of at most ``batch_size``, from the batch ``start`` on.

    Every sample is seen once, and sizes differ by at most one: 72 samples in batches of at most 64
    are 36 and 36. So no step has a batch of a few samples (a noisy gradient, useless batch
    statistics), and none is left out.
    """
    steps = steps_per_epoch(len(order), batch_size)
    for step in range(start, steps):
        yield order[step * len(order) // steps : (step + 1) * len(order) // steps]


def _raw(domain: int, seed: int, index: int, count: int, *, first_block: int = 0) -> npt.NDArray[np.uint64]:
    """``count`` raw words of the stream that belongs to (domain, seed, index)."""
    generator = np.random.Philox(key=np.array([domain << 32 | seed, index], dtype=np.uint64))
    generator.advance(first_block)
    return np.asarray(generator.random_raw(count), dtype=np.uint64)


# --- pictures -----------------------------------------------------------------------------------


@torch.no_grad()
def apply_view(images_BCHW: Tensor, rows_BK: Tensor, augmentation: Augmentation) -> Tensor:
    """Augment a batch: uint8 (B, C, H, W) and its rows to float32 (B, C, H, W) in 0…1, on the images' device.

    ``none`` only scales; ``flip`` mirrors half of the pictures; ``light`` moves them by up to an eighth
    (black outside) and flips (He et al. 2016, section 4.2); ``strong`` is a resized crop of at least
    0.35 of the area, flip, brightness, contrast, saturation by up to 0.4, and random erasing.
    Call it outside autocast: the result is float32 whatever the training's precision.
    """
    assert images_BCHW.dtype == torch.uint8
    assert rows_BK.shape == (len(images_BCHW), NUM_COLUMNS)
    rows_BK = rows_BK.to(images_BCHW.device)
    match augmentation:
        case "none":
            return _unit(images_BCHW)
        case "flip":
            return _unit(_flip(images_BCHW, rows_BK))
        case "light":
            return _unit(_moved(_flip(images_BCHW, rows_BK), rows_BK))
        case "strong":
            pictures = _resized_crop(_unit(_flip(images_BCHW, rows_BK)), rows_BK)
            return _erase(_colour(pictures, rows_BK), rows_BK)


def _unit(images_BCHW: Tensor) -> Tensor:
    return images_BCHW.to(torch.float32) / 255.0


def _column(rows_BK: Tensor, column: Column) -> Tensor:
    """One draw a sample, shaped (B, 1, 1, 1)."""
    return rows_BK[:, column, None, None, None]


def _flip(images_BCHW: Tensor, rows_BK: Tensor) -> Tensor:
    return torch.where(_column(rows_BK, Column.FLIP) < 0.5, images_BCHW.flip(-1), images_BCHW)


def _moved(images_BCHW: Tensor, rows_BK: Tensor) -> Tensor:
    """A crop of the same size, at whole pixels, of the picture with a black border of an eighth."""
    size_B, _, height, width = images_BCHW.shape
    border_y, border_x = max(1, height // 8), max(1, width // 8)
    padded = F.pad(images_BCHW, (border_x, border_x, border_y, border_y))
    # All crops that there are, as views of the same memory; one a sample is copied, row by row.
    crops = padded.unfold(2, height, 1).unfold(3, width, 1)
    y_B = _offsets(rows_BK[:, Column.CROP_Y], border_y)
    x_B = _offsets(rows_BK[:, Column.CROP_X], border_x)
    return crops[torch.arange(size_B, device=padded.device), :, y_B, x_B]


def _offsets(draws_B: Tensor, border: int) -> Tensor:
    """Whole offsets 0 … 2·border, (B,)."""
    return (draws_B * (2 * border + 1)).long().clamp(max=2 * border)


def _ratio(draws: Tensor, largest: float) -> Tensor:
    """An aspect ratio between 1/largest and largest, as often wide as tall.

    Not log-uniform, as in torchvision: this needs no exponential (see the module's text).
    """
    excess = (2.0 * draws - 1.0).abs() * (largest - 1.0) + 1.0
    return torch.where(draws < 0.5, 1.0 / excess, excess)


def _resized_crop(pictures_BCHW: Tensor, rows_BK: Tensor) -> Tensor:
    """A part of each picture, stretched to the whole size, bilinear (it is never made smaller)."""
    height, width = pictures_BCHW.shape[-2:]
    area = _column(rows_BK, Column.SCALE) * (1.0 - MIN_CROP_AREA) + MIN_CROP_AREA
    ratio = _ratio(_column(rows_BK, Column.RATIO), MAX_CROP_RATIO)
    part_x = (area * ratio).sqrt().clamp(max=1.0)  # sides as parts of the picture's
    part_y = (area / ratio).sqrt().clamp(max=1.0)
    x = _positions(part_x, _column(rows_BK, Column.CROP_X), width)
    y = _positions(part_y, _column(rows_BK, Column.CROP_Y), height)
    x_BHW = x[:, 0].expand(-1, height, -1)
    y_BHW = y[:, 0].transpose(1, 2).expand(-1, -1, width)
    grid = torch.stack((x_BHW, y_BHW), dim=-1)
    return F.grid_sample(pictures_BCHW, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _positions(part: Tensor, place: Tensor, size: int) -> Tensor:
    """Where each of ``size`` output pixels lies in the picture, −1 … 1: (B, 1, 1, size)."""
    centres = (torch.arange(size, device=part.device, dtype=torch.float32) + 0.5) / size
    return (place * (1.0 - part) + part * centres) * 2.0 - 1.0


def _colour(pictures_BCHW: Tensor, rows_BK: Tensor) -> Tensor:
    """Brightness, contrast and saturation, in this order; each mixes with black, grey mean, grey picture."""
    pictures = (pictures_BCHW * _factor(rows_BK, Column.BRIGHTNESS)).clamp(0.0, 1.0)
    pictures = _away_from(_grey_mean(pictures), pictures, _factor(rows_BK, Column.CONTRAST))
    if pictures.shape[1] == 1:  # a greyscale picture has no saturation
        return pictures
    return _away_from(_luminance(pictures), pictures, _factor(rows_BK, Column.SATURATION))


def _factor(rows_BK: Tensor, column: Column) -> Tensor:
    return (_column(rows_BK, column) * 2.0 - 1.0) * COLOUR_STRENGTH + 1.0


def _away_from(anchor: Tensor, pictures_BCHW: Tensor, factor: Tensor) -> Tensor:
    # Not lerp: its kernel may fuse the multiplication with the sum in one place of a batch and not in another.
    return (anchor * (1.0 - factor) + pictures_BCHW * factor).clamp(0.0, 1.0)


def _luminance(pictures_BCHW: Tensor) -> Tensor:
    """(B, 1, H, W); of one channel, the picture itself."""
    if pictures_BCHW.shape[1] == 1:
        return pictures_BCHW
    red, green, blue = (pictures_BCHW[:, c : c + 1] for c in range(3))
    return red * _LUMINANCE[0] + green * _LUMINANCE[1] + blue * _LUMINANCE[2]


def _grey_mean(pictures_BCHW: Tensor) -> Tensor:
    """Mean luminance of each picture, (B, 1, 1, 1): summed as integers, which no order of summing changes."""
    grey = (_luminance(pictures_BCHW) * _FIXED_POINT).round().to(torch.int64)
    total = grey.sum(dim=(1, 2, 3), keepdim=True)
    return (total.to(torch.float64) / (_FIXED_POINT * grey[0].numel())).to(torch.float32)


def _erase(pictures_BCHW: Tensor, rows_BK: Tensor) -> Tensor:
    """Cover a rectangle of some pictures with one colour."""
    size_C, height, width = pictures_BCHW.shape[1:]
    area = _column(rows_BK, Column.ERASE_AREA) * (MAX_ERASED_AREA - MIN_ERASED_AREA) + MIN_ERASED_AREA
    ratio = _ratio(_column(rows_BK, Column.ERASE_RATIO), MAX_ERASE_RATIO)
    part_x = (area * ratio).sqrt().clamp(max=1.0)
    part_y = (area / ratio).sqrt().clamp(max=1.0)
    across = _covered(part_x, _column(rows_BK, Column.ERASE_X), width)
    down = _covered(part_y, _column(rows_BK, Column.ERASE_Y), height).transpose(2, 3)
    chosen = _column(rows_BK, Column.ERASE) < ERASE_CHANCE
    colour_BC = rows_BK[:, Column.ERASE_RED : Column.ERASE_RED + size_C]
    return torch.where(chosen & across & down, colour_BC[:, :, None, None], pictures_BCHW)


def _covered(part: Tensor, place: Tensor, size: int) -> Tensor:
    """Which pixel centres lie in the covered stretch: bool (B, 1, 1, size)."""
    centres = (torch.arange(size, device=part.device, dtype=torch.float32) + 0.5) / size
    start = place * (1.0 - part)
    return (centres >= start) & (centres < start + part)

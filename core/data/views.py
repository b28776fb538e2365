"""Augmentations that are replayed from seeds: the draws of a view, and the operations that apply them.

For each (seed, view) there is one table of uniform draws, with one row per sample and one named column per decision.
The draws are the raw stream of Philox 4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"),
which numpy keeps stable. Row i has its own counter blocks, so it depends neither on the number of samples nor on
which rows are requested.

:func:`apply_view` augments a batch of images by its rows, with tensor operations on any device. A sample's result has
the same bits in every batch: all operations are rounded exactly by IEEE 754 or work within one sample, and sums run
over integers. A float sum or an exponential may differ in its last bit with the sample's position in the batch.

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

from core.spec.training import Augmentation

NUM_COLUMNS = 32  # a multiple of 8: a row is an integer number of Philox blocks (4 × 64 bits, 2 draws each)


class Column(IntEnum):
    """Meaning of each draw of a row. Values never change: a new draw takes the next free column."""

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
    MIX_PARTNER = 17  # core.data.mixing reads this column and the next four
    MIX_LAMBDA = 18
    MIX_KIND = 19
    MIX_X = 20
    MIX_Y = 21


MAX_SHIFT = 1 / 8  # of a side
MIN_CROP_AREA = 0.35  # of the image; smaller crops suit longer schedules than those of distillation
MAX_CROP_RATIO = 4 / 3  # width to height, or height to width (Szegedy et al. 2015, arXiv:1409.4842)
COLOR_STRENGTH = 0.4  # factors 0.6 to 1.4
ERASE_PROBABILITY = 0.25  # random erasing (Zhong et al. 2017, arXiv:1708.04896), as DeiT uses it
MIN_ERASED_AREA, MAX_ERASED_AREA = 0.02, 1 / 3
MAX_ERASE_RATIO = 3.3

_TABLE, _ORDER, _SAMPLES = 0, 1, 2  # domains in the key of the generator, so that no two uses share a stream
_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601
_FIXED_POINT = 65_536.0


# --- draws --------------------------------------------------------------------------------------


def view_table(seed: int, view: int, num_samples: int, *, first: int = 0) -> Tensor:
    """Return the draws of one view: float32 (N, NUM_COLUMNS), uniform in [0, 1).

    ``first`` is the index of the first row, so that a table can be generated in blocks.
    """
    blocks_per_row = NUM_COLUMNS // 8
    raw = _raw(_TABLE, seed, view, num_samples * NUM_COLUMNS // 2, first_block=first * blocks_per_row)
    return torch.from_numpy(_uniform(raw).reshape(num_samples, NUM_COLUMNS))


def view_of_epoch(epoch: int, views: int | None) -> int:
    """Return the view index of an epoch (from 0): cycles through ``views`` views; None is a new view every epoch."""
    return epoch if views is None else epoch % views


def num_views(epochs: int, views: int | None) -> int:
    """Number of distinct views in a training of ``epochs`` epochs."""
    return min(epochs, views or epochs)


def epoch_order(seed: int, epoch: int, num_samples: int) -> Tensor:
    """Return the sample order of an epoch: int64 (N,), a permutation drawn from (seed, epoch)."""
    raw = _raw(_ORDER, seed, epoch, num_samples)
    return torch.from_numpy(np.argsort(raw, kind="stable"))


def sample_draws(seed: int, epoch: int, indices_B: Tensor, num_draws: int) -> Tensor:
    """Return the draws of single samples in an epoch, for a method: float32 (B, num_draws), uniform in [0, 1).

    Row i depends on seed, epoch, the sample's index and ``num_draws`` only, not on the other samples of the batch.
    """
    blocks_per_row = -(-num_draws // 8)
    generator, position = _generator(_SAMPLES, seed, epoch), 0
    raw_BK = np.empty((len(indices_B), 4 * blocks_per_row), dtype=np.uint64)
    for row_K, index in zip(raw_BK, indices_B.tolist(), strict=True):
        generator.advance((index - position) * blocks_per_row)
        row_K[:] = generator.random_raw(len(row_K))
        position = index + 1
    return torch.from_numpy(_uniform(raw_BK)[:, :num_draws].copy())


def steps_per_epoch(num_samples: int, batch_size: int) -> int:
    """Number of batches that :func:`batches` splits an epoch into."""
    return -(-num_samples // batch_size)


def batches(order: Tensor, batch_size: int, *, start: int = 0) -> Iterator[Tensor]:
    """Split an epoch's order into batches of at most ``batch_size``; yield those from index ``start`` on.

    Every sample occurs once, and batch sizes differ by at most one: 72 samples in batches of at most 64 are 36 and 36.
    So no sample is dropped, and no batch is very small, with a noisy gradient and useless batch statistics.
    """
    steps = steps_per_epoch(len(order), batch_size)
    for step in range(start, steps):
        yield order[step * len(order) // steps : (step + 1) * len(order) // steps]


def _generator(domain: int, seed: int, index: int) -> np.random.Philox:
    """Return the generator of the stream of (domain, seed, index), at its first block."""
    return np.random.Philox(key=np.array([domain << 32 | seed, index], dtype=np.uint64))


def _raw(domain: int, seed: int, index: int, count: int, *, first_block: int = 0) -> npt.NDArray[np.uint64]:
    """Return ``count`` raw 64-bit words of the stream of (domain, seed, index)."""
    generator = _generator(domain, seed, index)
    generator.advance(first_block)
    return np.asarray(generator.random_raw(count), dtype=np.uint64)


def _uniform(raw: npt.NDArray[np.uint64]) -> npt.NDArray[np.float32]:
    """Return two draws in [0, 1) for each word, along the last axis."""
    words = raw.astype("<u8", copy=False).view("<u4")  # little-endian halves: the same on every machine
    return (words >> 8).astype(np.float32) * np.float32(2**-24)  # 24 bits: exact in float32, below 1


# --- images -------------------------------------------------------------------------------------


@torch.no_grad()
def apply_view(images_BCHW: Tensor, rows_BK: Tensor, augmentation: Augmentation) -> Tensor:
    """Augment a batch: uint8 (B, C, H, W) and its rows to float32 (B, C, H, W) in 0…1, on the images' device.

    ``none`` only scales values to 0…1. ``flip`` mirrors half of the images. ``light`` shifts by up to an eighth, with
    black outside, and flips (He et al. 2016, section 4.2). ``strong`` is a resized crop of at least 0.35 of the area,
    a flip, brightness, contrast and saturation by up to 0.4, and random erasing.
    Call it outside autocast: the result is float32 for every precision of the training.
    """
    assert images_BCHW.dtype == torch.uint8
    assert rows_BK.shape == (len(images_BCHW), NUM_COLUMNS)
    rows_BK = rows_BK.to(images_BCHW.device)
    match augmentation:
        case "none":
            return _to_unit_range(images_BCHW)
        case "flip":
            return _flip_and_shift(images_BCHW, rows_BK, max_shift=0)
        case "light":
            return _flip_and_shift(images_BCHW, rows_BK, max_shift=MAX_SHIFT)
        case "strong":
            images = _resized_crop(_flip_and_shift(images_BCHW, rows_BK, max_shift=0), rows_BK)
            return _erase(_color_jitter(images, rows_BK), rows_BK)


def _to_unit_range(images_BCHW: Tensor) -> Tensor:
    return images_BCHW.to(torch.float32).div_(255.0)


def _column(rows_BK: Tensor, column: Column) -> Tensor:
    """Return one draw per sample, as (B, 1, 1, 1)."""
    return rows_BK[:, column, None, None, None]


def _flip_and_shift(images_BCHW: Tensor, rows_BK: Tensor, *, max_shift: float) -> Tensor:
    """Mirror half of the images, and shift by up to ``max_shift`` of a side, with black outside; float32 in 0…1."""
    border_y, border_x = ((max(1, int(side * max_shift)) if max_shift else 0) for side in images_BCHW.shape[-2:])
    if images_BCHW.device.type == "cpu":
        return _copy_each(images_BCHW, rows_BK, border_y, border_x)
    images = torch.where(_column(rows_BK, Column.FLIP) < 0.5, images_BCHW.flip(-1), images_BCHW)
    return _to_unit_range(_shift(images, rows_BK, border_y, border_x) if max_shift else images)


def _copy_each(images_BCHW: Tensor, rows_BK: Tensor, border_y: int, border_x: int) -> Tensor:
    """Mirror and shift images on a CPU, in one copy for each: memory is what a CPU spends its time on."""
    height, width = images_BCHW.shape[-2:]
    shifted_BCHW = torch.zeros(images_BCHW.shape) if border_y or border_x else torch.empty(images_BCHW.shape)
    sources, targets = images_BCHW.numpy(), shifted_BCHW.numpy()
    flips = (rows_BK[:, Column.FLIP] < 0.5).tolist()
    down = (_offsets(rows_BK[:, Column.CROP_Y], border_y) - border_y).tolist()
    right = (_offsets(rows_BK[:, Column.CROP_X], border_x) - border_x).tolist()
    for source, target, flip, y, x in zip(sources, targets, flips, down, right, strict=True):
        image = source[..., ::-1] if flip else source
        visible = image[:, max(y, 0) : height + min(y, 0), max(x, 0) : width + min(x, 0)]
        target[:, max(-y, 0) : height - max(y, 0), max(-x, 0) : width - max(x, 0)] = visible
    return shifted_BCHW.div_(255.0)


def _shift(images_BCHW: Tensor, rows_BK: Tensor, border_y: int, border_x: int) -> Tensor:
    """Pad by a black border, and crop the original size at integer offsets."""
    size_B, _, height, width = images_BCHW.shape
    padded = F.pad(images_BCHW, (border_x, border_x, border_y, border_y))
    # All possible crops, as views of the same memory; the indexing below copies one per sample.
    crops = padded.unfold(2, height, 1).unfold(3, width, 1)
    y_B = _offsets(rows_BK[:, Column.CROP_Y], border_y)
    x_B = _offsets(rows_BK[:, Column.CROP_X], border_x)
    return crops[torch.arange(size_B, device=padded.device), :, y_B, x_B]


def _offsets(draws_B: Tensor, border: int) -> Tensor:
    """Return integer offsets 0 … 2·border, (B,)."""
    return (draws_B * (2 * border + 1)).long().clamp(max=2 * border)


def _ratio(draws: Tensor, largest: float) -> Tensor:
    """Return an aspect ratio between 1/largest and largest, equally often wide and tall.

    Not log-uniform as in torchvision, which needs an exponential (see the module's docstring).
    """
    excess = (2.0 * draws - 1.0).abs() * (largest - 1.0) + 1.0
    return torch.where(draws < 0.5, 1.0 / excess, excess)


def _resized_crop(images_BCHW: Tensor, rows_BK: Tensor) -> Tensor:
    """Crop a part of each image and enlarge it to the original size, with bilinear interpolation."""
    height, width = images_BCHW.shape[-2:]
    area = _column(rows_BK, Column.SCALE) * (1.0 - MIN_CROP_AREA) + MIN_CROP_AREA
    ratio = _ratio(_column(rows_BK, Column.RATIO), MAX_CROP_RATIO)
    side_x = (area * ratio).sqrt().clamp(max=1.0)  # side lengths, relative to the image
    side_y = (area / ratio).sqrt().clamp(max=1.0)
    x = _positions(side_x, _column(rows_BK, Column.CROP_X), width)
    y = _positions(side_y, _column(rows_BK, Column.CROP_Y), height)
    x_BHW = x[:, 0].expand(-1, height, -1)
    y_BHW = y[:, 0].transpose(1, 2).expand(-1, -1, width)
    grid = torch.stack((x_BHW, y_BHW), dim=-1)
    return F.grid_sample(images_BCHW, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _positions(side: Tensor, offset: Tensor, size: int) -> Tensor:
    """Return the coordinates of ``size`` output pixels in the image, −1 … 1: (B, 1, 1, size)."""
    centers = (torch.arange(size, device=side.device, dtype=torch.float32) + 0.5) / size
    return (offset * (1.0 - side) + side * centers) * 2.0 - 1.0


def _color_jitter(images_BCHW: Tensor, rows_BK: Tensor) -> Tensor:
    """Change brightness, contrast and saturation in this order: blend with black, mean luminance and luminance."""
    images = (images_BCHW * _factor(rows_BK, Column.BRIGHTNESS)).clamp_(0.0, 1.0)
    images = _blend(_mean_luminance(images), images, _factor(rows_BK, Column.CONTRAST))
    if images.shape[1] == 1:  # grayscale images have no saturation
        return images
    return _blend(_luminance(images), images, _factor(rows_BK, Column.SATURATION))


def _factor(rows_BK: Tensor, column: Column) -> Tensor:
    return (_column(rows_BK, column) * 2.0 - 1.0) * COLOR_STRENGTH + 1.0


def _blend(anchor: Tensor, images_BCHW: Tensor, factor: Tensor) -> Tensor:
    # Not lerp: its kernel may fuse multiplication and sum at one position of a batch and not at another.
    return (images_BCHW * factor).add_(anchor * (1.0 - factor)).clamp_(0.0, 1.0)


def _luminance(images_BCHW: Tensor) -> Tensor:
    """Return the luminance (B, 1, H, W); grayscale images are returned unchanged."""
    if images_BCHW.shape[1] == 1:
        return images_BCHW
    red, green, blue = (images_BCHW[:, c : c + 1] for c in range(3))
    return red * _LUMINANCE[0] + green * _LUMINANCE[1] + blue * _LUMINANCE[2]


def _mean_luminance(images_BCHW: Tensor) -> Tensor:
    """Return the mean luminance of each image, (B, 1, 1, 1). Integer sums do not depend on their order."""
    luminance = (_luminance(images_BCHW) * _FIXED_POINT).round().to(torch.int64)
    total = luminance.sum(dim=(1, 2, 3), keepdim=True)
    return (total.to(torch.float64) / (_FIXED_POINT * luminance[0].numel())).to(torch.float32)


def _erase(images_BCHW: Tensor, rows_BK: Tensor) -> Tensor:
    """Fill a rectangle of some images with one color."""
    size_C, height, width = images_BCHW.shape[1:]
    area = _column(rows_BK, Column.ERASE_AREA) * (MAX_ERASED_AREA - MIN_ERASED_AREA) + MIN_ERASED_AREA
    ratio = _ratio(_column(rows_BK, Column.ERASE_RATIO), MAX_ERASE_RATIO)
    side_x = (area * ratio).sqrt().clamp(max=1.0)
    side_y = (area / ratio).sqrt().clamp(max=1.0)
    columns = _interval_mask(side_x, _column(rows_BK, Column.ERASE_X), width)
    rows = _interval_mask(side_y, _column(rows_BK, Column.ERASE_Y), height).transpose(2, 3)
    is_erased = _column(rows_BK, Column.ERASE) < ERASE_PROBABILITY
    color_BC = rows_BK[:, Column.ERASE_RED : Column.ERASE_RED + size_C]
    return torch.where(is_erased & columns & rows, color_BC[:, :, None, None], images_BCHW)


def _interval_mask(side: Tensor, offset: Tensor, size: int) -> Tensor:
    """Return which pixel centers lie in the interval: bool (B, 1, 1, size)."""
    centers = (torch.arange(size, device=side.device, dtype=torch.float32) + 0.5) / size
    start = offset * (1.0 - side)
    return (centers >= start) & (centers < start + side)

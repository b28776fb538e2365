import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import core.data.views
from core.data.views import (
    NUM_COLUMNS,
    Column,
    apply_view,
    batches,
    epoch_order,
    num_views,
    sample_draws,
    steps_per_epoch,
    view_of_epoch,
    view_table,
)

AUGMENTATIONS = ("none", "flip", "light", "strong")
seeds = st.integers(0, 2**31 - 1)
views = st.integers(0, 20_000)


def random_images(count, channels=3, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)


def row(**draws):
    """One row with all draws 0.5 except the given ones."""
    rows = torch.full((1, NUM_COLUMNS), 0.5)
    for name, value in draws.items():
        rows[0, Column[name.upper()]] = value
    return rows


# --- the table ----------------------------------------------------------------------------------


@given(seeds, views, st.integers(1, 50), st.integers(1, 50))
def test_a_row_does_not_depend_on_the_number_of_samples(seed, view, few, more):
    assert torch.equal(view_table(seed, view, few), view_table(seed, view, few + more)[:few])


@given(seeds, views, st.integers(0, 100), st.integers(1, 20))
def test_a_table_can_be_generated_in_blocks(seed, view, first, count):
    full = view_table(seed, view, first + count)

    assert torch.equal(view_table(seed, view, count, first=first), full[first:])


@given(seeds, views)
def test_a_table_can_be_replayed(seed, view):
    assert torch.equal(view_table(seed, view, 7), view_table(seed, view, 7))


@given(seeds, views)
def test_another_seed_or_view_has_other_draws(seed, view):
    table = view_table(seed, view, 2)

    assert not torch.equal(table, view_table(seed ^ 1, view, 2))
    assert not torch.equal(table, view_table(seed, view + 1, 2))


def test_draws_are_uniform_in_0_to_1():
    table = view_table(0, 0, 20_000)

    assert table.dtype == torch.float32
    assert table.shape == (20_000, NUM_COLUMNS)
    assert table.min() >= 0
    assert table.max() < 1
    assert (table.mean(0) - 0.5).abs().max() < 0.012
    assert (table.var(0) - 1 / 12).abs().max() < 0.003
    correlation = torch.corrcoef(table.T) - torch.eye(NUM_COLUMNS)
    assert correlation.abs().max() < 0.035


def philox(key, counter):
    """Philox 4x64-10 from the paper, for one counter."""
    k, c, mask = list(key), list(counter), 2**64 - 1
    for _ in range(10):
        low, high = c[0] * 0xD2E7470EE14C6C93, c[2] * 0xCA5A826395121157
        c = [(high >> 64) ^ c[1] ^ k[0], high & mask, (low >> 64) ^ c[3] ^ k[1], low & mask]
        k = [(k[0] + 0x9E3779B97F4A7C15) & mask, (k[1] + 0xBB67AE8584CAA73B) & mask]
    return c


def test_the_draws_match_the_published_generator():
    seed, view, index = 123, 45, 6
    words = [word for block in range(4) for word in philox((seed, view), (1 + 4 * index + block, 0, 0, 0))]
    expected = [half / 2**24 for word in words for half in ((word & 0xFFFFFFFF) >> 8, word >> 40)]

    assert view_table(seed, view, 1, first=index)[0].tolist() == expected


def test_columns_are_distinct_and_some_are_free():
    assert len(Column) == len({column.value for column in Column}) < NUM_COLUMNS


@settings(deadline=None, derandomize=True, max_examples=30)
@given(seed=seeds, epoch=views, count=st.integers(1, 70), data=st.data())
def test_draws_of_a_sample_do_not_depend_on_the_rest_of_the_batch(seed, epoch, count, data):
    indices = torch.tensor(data.draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=5)))

    draws = sample_draws(seed, epoch, indices, count)

    assert draws.shape == (len(indices), count)
    assert draws.dtype == torch.float32
    for index, row in zip(indices, draws, strict=True):
        assert sample_draws(seed, epoch, index.view(1), count)[0].equal(row)
    assert not sample_draws(seed, epoch + 1, indices, count).equal(draws)


def test_draws_of_samples_are_uniform_and_not_those_of_views():
    draws = sample_draws(0, 0, torch.arange(500), 40)

    assert draws.mean().item() == pytest.approx(0.5, abs=0.01)
    assert draws.std().item() == pytest.approx(12**-0.5, abs=0.01)
    assert len(draws.unique()) > 0.99 * draws.numel()
    assert not view_table(0, 0, 500)[:, :32].equal(draws[:, :32])
    assert sample_draws(0, 0, torch.arange(0), 40).shape == (0, 40)


@pytest.mark.parametrize(("epoch", "count", "view"), [(0, None, 0), (7, None, 7), (7, 4, 3), (8, 4, 0), (5, 1, 0)])
def test_views_are_cycled(epoch, count, view):
    assert view_of_epoch(epoch, count) == view


@pytest.mark.parametrize(("epochs", "views", "count"), [(5, None, 5), (5, 2, 2), (5, 5, 5), (3, 8, 3), (1, 1, 1)])
def test_the_number_of_views_counts_distinct_views(epochs, views, count):
    assert num_views(epochs, views) == count
    assert len({view_of_epoch(epoch, views) for epoch in range(epochs)}) == count


# --- order and batches --------------------------------------------------------------------------


@given(seeds, views, st.integers(1, 200))
def test_an_order_is_a_replayable_permutation(seed, epoch, count):
    order = epoch_order(seed, epoch, count)

    assert order.dtype == torch.int64
    assert sorted(order.tolist()) == list(range(count))
    assert torch.equal(order, epoch_order(seed, epoch, count))


def test_every_epoch_has_another_order():
    assert len({tuple(epoch_order(0, epoch, 20).tolist()) for epoch in range(50)}) == 50


@given(st.integers(1, 300), st.integers(1, 64))
def test_batches_cover_an_epoch_evenly(count, batch_size):
    order = epoch_order(0, 0, count)
    all_batches = list(batches(order, batch_size))

    assert len(all_batches) == steps_per_epoch(count, batch_size)
    assert torch.equal(torch.cat(all_batches), order)
    sizes = [len(batch) for batch in all_batches]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 300), st.integers(1, 64), st.data())
def test_batches_start_at_any_step(count, batch_size, data):
    order = epoch_order(1, 2, count)
    all_batches = list(batches(order, batch_size))
    start = data.draw(st.integers(0, len(all_batches)))

    rest = list(batches(order, batch_size, start=start))

    assert len(rest) == len(all_batches) - start
    assert all(torch.equal(batch, expected) for batch, expected in zip(rest, all_batches[start:], strict=True))


# --- images ---------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    st.sampled_from(AUGMENTATIONS),
    seeds,
    st.integers(2, 9),
    st.sampled_from([1, 3]),
    st.sampled_from([4, 8, 15, 32]),
    st.data(),
)
def test_a_sample_is_the_same_in_every_batch(augmentation, seed, count, channels, size, data):
    images, rows = random_images(count, channels, size, seed % 97), view_table(seed, 0, count)
    full = apply_view(images, rows, augmentation)
    selected = torch.tensor(data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=6)))

    subset = apply_view(images[selected], rows[selected], augmentation)

    assert torch.equal(subset, full[selected])


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("size", [32, 61])
def test_a_sample_is_the_same_for_any_batch_size_and_number_of_threads(augmentation, size):
    images, rows = random_images(130, size=size), view_table(3, 1, 130)
    full = apply_view(images, rows, augmentation)
    alone = torch.cat([apply_view(images[i : i + 1], rows[i : i + 1], augmentation) for i in range(130)])
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        parallel = apply_view(images, rows, augmentation)
    finally:
        torch.set_num_threads(threads)

    assert torch.equal(full, alone)
    assert torch.equal(full, parallel)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_results_are_float_images_in_0_to_1(augmentation, channels):
    result = apply_view(random_images(64, channels), view_table(0, 0, 64), augmentation)

    assert result.dtype == torch.float32
    assert result.shape == (64, channels, 16, 16)
    assert result.min() >= 0
    assert result.max() <= 1


def test_none_only_scales():
    images = random_images(2)

    assert torch.equal(apply_view(images, view_table(0, 0, 2), "none"), images / 255)


def test_flip_mirrors_half_of_the_images():
    images, rows = random_images(400, size=4), view_table(0, 0, 400)
    result = apply_view(images, rows, "flip")
    flipped = rows[:, Column.FLIP] < 0.5

    assert torch.equal(result[flipped], images[flipped].flip(-1) / 255)
    assert torch.equal(result[~flipped], images[~flipped] / 255)
    assert 160 < flipped.sum() < 240


@pytest.mark.parametrize(("draw", "offset"), [(0.0, -2), (0.5, 0), (0.999999, 2)])
def test_light_shifts_by_up_to_an_eighth_with_black_outside(draw, offset):
    images = random_images(1)

    result = apply_view(images, row(crop_x=draw, flip=0.9), "light")[0]

    moved = torch.roll(images[0] / 255, -offset, dims=-1)
    if offset:
        moved[:, :, -offset if offset > 0 else 0 : None if offset > 0 else -offset] = 0
    assert torch.equal(result, moved)


def test_light_shifts_very_small_images_by_one_pixel():
    images = random_images(1, size=4)

    result = apply_view(images, row(crop_x=0.0, flip=0.9), "light")[0]

    assert torch.equal(result[:, :, 1:], images[0, :, :, :-1] / 255)
    assert result[:, :, 0].abs().sum() == 0


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 5, 8), (3, 33, 24)])
@pytest.mark.parametrize("max_shift", [0, 1 / 8])
def test_a_cpu_copies_the_same_bits_that_a_gpu_gathers(channels, height, width, max_shift):
    images = torch.randint(0, 256, (40, channels, height, width), dtype=torch.uint8)
    rows = view_table(5, 1, 40)
    border_y, border_x = ((max(1, side // 8) if max_shift else 0) for side in (height, width))

    flipped = torch.where(rows[:, Column.FLIP, None, None, None] < 0.5, images.flip(-1), images)
    gathered = core.data.views._to_unit_range(core.data.views._shift(flipped, rows, border_y, border_x))

    assert core.data.views._flip_and_shift(images, rows, max_shift=max_shift).equal(gathered)


def test_strong_with_neutral_draws_is_the_image():
    images = random_images(1)
    full = row(scale=1.0, flip=0.9, erase=0.9)

    result = apply_view(images, full, "strong")

    assert (result - images / 255).abs().max() < 1e-5


def test_a_resized_crop_shows_its_window():
    images = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    images[..., 8:] = 255  # the right half is white

    corner = row(scale=0.0, crop_x=0.0, crop_y=0.0, flip=0.9, erase=0.9, contrast=0.5, brightness=0.5)
    result = apply_view(images, corner, "strong")[0, 0]

    side = 0.35**0.5 * 16  # 9.47 pixels, of which 1.47 are white
    share = (result > 0.5).float().mean().item()
    assert share == pytest.approx((side - 8) / side, abs=0.04)


def test_brightness_and_contrast_of_a_gray_image():
    images = torch.full((1, 1, 8, 8), 100, dtype=torch.uint8)

    bright = apply_view(images, row(scale=1.0, flip=0.9, erase=0.9, brightness=1.0), "strong")
    flat = apply_view(images, row(scale=1.0, flip=0.9, erase=0.9, contrast=0.0), "strong")

    assert bright.flatten().tolist() == pytest.approx([140 / 255] * 64)
    assert flat.flatten().tolist() == pytest.approx([100 / 255] * 64, abs=1e-5)


def test_contrast_blends_with_the_mean_luminance():
    images = random_images(1)
    result = apply_view(images, row(scale=1.0, flip=0.9, erase=0.9, contrast=0.0), "strong")[0]

    x = images[0].float() / 255
    mean = (0.299 * x[0] + 0.587 * x[1] + 0.114 * x[2]).mean()
    assert (result - (0.6 * x + 0.4 * mean)).abs().max() < 1e-4


def test_saturation_blends_with_the_luminance():
    images = random_images(1)
    result = apply_view(images, row(scale=1.0, flip=0.9, erase=0.9, saturation=0.0), "strong")[0]

    x = images[0].float() / 255
    luminance = 0.299 * x[0] + 0.587 * x[1] + 0.114 * x[2]
    assert (result - (0.6 * x + 0.4 * luminance)).abs().max() < 1e-5


def test_erasing_fills_a_rectangle_with_one_color():
    images = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    erased = row(
        scale=1.0, flip=0.9, erase=0.1, erase_area=1.0, erase_ratio=0.5, erase_x=0.0, erase_y=0.999, erase_red=0.75
    )

    result = apply_view(images, erased, "strong")[0]

    covered = result[0] == 0.75
    assert torch.equal(covered, result.sum(0) > 0)
    assert covered[:, 0].any()
    assert covered[-1].any()
    assert covered.sum() == covered.any(0).sum() * covered.any(1).sum()
    assert covered.float().mean().item() == pytest.approx(1 / 3, abs=0.05)


def test_a_quarter_of_the_images_is_erased():
    images = torch.full((2000, 1, 8, 8), 128, dtype=torch.uint8)
    rows = view_table(0, 0, 2000)

    result = apply_view(images, rows, "strong").flatten(1)

    changed = (result.max(1).values - result.min(1).values > 1e-3).float().mean().item()
    assert 0.2 < changed < 0.29


def test_strong_crops_have_the_documented_sizes():
    ramp = torch.arange(64, dtype=torch.uint8).repeat(64, 1)[None, None].repeat(500, 1, 1, 1)
    rows = view_table(1, 0, 500)
    rows[:, [Column.BRIGHTNESS, Column.CONTRAST]] = 0.5
    rows[:, Column.ERASE] = 0.9

    result = apply_view(ramp, rows, "strong") * 255
    widths = np.abs((result[:, 0, 0, -1] - result[:, 0, 0, 0]).numpy()) + 1

    assert widths.min() >= 64 * (0.35 * 0.75) ** 0.5 - 2
    assert widths.max() <= 64


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_a_gpu_gives_the_same_images_and_the_same_bits_in_every_batch(augmentation):
    images, rows = random_images(130, size=61), view_table(3, 1, 130)
    on_gpu = apply_view(images.cuda(), rows, augmentation)
    alone = torch.cat([apply_view(images[i : i + 1].cuda(), rows[i : i + 1], augmentation) for i in range(130)])

    assert torch.equal(on_gpu, alone)
    assert (on_gpu.cpu() - apply_view(images, rows, augmentation)).abs().max() < 1e-4

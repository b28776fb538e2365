"""Batches are a function of (pixels, seed, step)."""

import numpy as np
import pytest
import torch
from PIL import Image

from core.data import decoding
from core.data.mixing import Mixing, mix_pictures
from core.data.pixels import Pixels, load_pixels
from core.data.stored import StoredDataset
from core.data.views import apply_view, view_table
from core.ingest.dataset import ingest_folder
from core.train.loader import BatchLoader

CPU = torch.device("cpu")


def feed(pixels, **more):
    options = {"batch_size": 8, "augmentation": "light", "views": None, "seed": 0, "device": CPU, **more}
    return BatchLoader(pixels, **options)


def test_an_epoch_shows_every_sample_once(pixels):
    one = feed(pixels)

    seen = torch.cat([one.batch(step).indices for step in range(5, 10)])

    assert sorted(seen.tolist()) == list(range(40))


def test_labels_belong_to_their_pictures(pixels):
    batch = feed(pixels, augmentation="none").batch(3)

    assert batch.labels.equal(pixels.labels[batch.indices])
    assert torch.equal((batch.images * 255).round().to(torch.uint8), torch.from_numpy(pixels.images[batch.indices]))


def test_a_feed_can_be_entered_at_any_step(pixels):
    walked, entered = feed(pixels), feed(pixels)
    for step in range(17):
        walked.batch(step)

    assert entered.batch(17).images.equal(walked.batch(17).images)


def test_another_seed_is_another_order_and_another_view(pixels):
    one, other = feed(pixels).batch(0), feed(pixels, seed=1).batch(0)

    assert not one.indices.equal(other.indices)


def by_sample(feed, epoch):
    batches = [feed.batch(5 * epoch + step) for step in range(5)]
    order = torch.cat([batch.indices for batch in batches])
    return torch.cat([batch.images for batch in batches])[order.argsort()]


def test_v_views_come_again_after_v_epochs_in_another_order(pixels):
    one = feed(pixels, views=2, augmentation="strong")

    assert by_sample(one, 0).equal(by_sample(one, 2))
    assert by_sample(one, 1).equal(by_sample(one, 3))
    assert not by_sample(one, 0).equal(by_sample(one, 1))
    assert not one.batch(0).indices.equal(one.batch(10).indices)


def test_without_views_every_epoch_is_new(pixels):
    one = feed(pixels, augmentation="strong")

    assert not by_sample(one, 0).equal(by_sample(one, 2))


BOTH = Mixing(mixup=0.8, cutmix=1.0)


def mixed_by_hand(pixels, augmentation, seed, view, index):
    """One sample's mixed picture and label, alone."""
    table = view_table(seed, view, len(pixels))
    draws = BOTH.draw(table[index : index + 1], num_samples=len(pixels), height=8, width=8)
    pair = torch.tensor([index, draws.partners.item()])
    own, partner = apply_view(pixels.batch(pair), table[pair], augmentation).split(1)
    labels = torch.eye(4)[pixels.labels[pair]]
    share = draws.shares.item()
    return mix_pictures(own, partner, draws)[0], share * labels[0] + (1 - share) * labels[1]


def test_a_mixed_sample_is_a_function_of_seed_view_and_index(pixels):
    one = feed(pixels, augmentation="strong", mixing=BOTH, num_classes=4, seed=3)

    for step in (0, 7):
        batch = one.batch(step)
        for image, label, index in zip(batch.images, batch.labels, batch.indices.tolist(), strict=True):
            picture, expected = mixed_by_hand(pixels, "strong", 3, step // 5, index)
            assert image.equal(picture)
            assert label.tolist() == pytest.approx(expected.tolist(), abs=1e-6)


@pytest.mark.parametrize("mixing", [BOTH, Mixing(0.0, 1.0, 0.3), Mixing(0.2, 0.0)])
@pytest.mark.parametrize("augmentation", ["light", "strong"])
def test_mixed_batches_of_any_size_show_the_same(pixels, mixing, augmentation):
    def epoch(batch_size):
        one = feed(pixels, batch_size=batch_size, augmentation=augmentation, mixing=mixing, num_classes=4)
        batches = [one.batch(step) for step in range(one.steps_per_epoch)]
        order = torch.cat([batch.indices for batch in batches]).argsort()
        images, labels = torch.cat([b.images for b in batches]), torch.cat([b.labels for b in batches])
        return images[order], labels[order]

    images, labels = epoch(40)

    for size in (1, 7):
        some_images, some_labels = epoch(size)
        assert images.equal(some_images)
        assert labels.equal(some_labels)


@pytest.mark.parametrize("mixing", [None, BOTH])
def test_a_view_can_be_shown_in_any_blocks_and_has_the_bits_that_its_batches_have(pixels, mixing):
    one = feed(pixels, augmentation="strong", views=2, mixing=mixing, num_classes=4)
    blocks = torch.cat([one.augmented(1, torch.arange(start, min(start + 16, 40))) for start in range(0, 40, 16)])

    for step in (5, 9, 15):  # of view 1
        batch = one.batch(step)
        assert blocks[batch.indices].equal(batch.images)


def test_looking_at_another_view_between_changes_no_batch(pixels):
    calm, shaken = feed(pixels), feed(pixels)
    calm.batch(0)
    shaken.batch(0)
    shaken.augmented(1, torch.arange(40))

    assert shaken.batch(5).images.equal(calm.batch(5).images)


def test_mixed_labels_are_probabilities_that_differ_from_the_own_label(pixels):
    labels = feed(pixels, mixing=BOTH, num_classes=4).batch(0).labels

    assert labels.dtype == torch.float32
    assert labels.shape == (8, 4)
    assert labels.sum(1).tolist() == pytest.approx([1.0] * 8)
    assert (labels.max(1).values < 1).any()


def test_where_no_picture_of_a_batch_is_mixed_labels_are_still_probabilities(pixels):
    batch = feed(pixels, mixing=Mixing(0.8, 0.0, 1e-9), num_classes=4, augmentation="strong").batch(0)

    assert batch.labels.equal(torch.eye(4)[pixels.labels[batch.indices]])
    assert batch.images.equal(feed(pixels, augmentation="strong").batch(0).images)


def test_pictures_without_classes_are_mixed_and_their_labels_stay(pixels):
    unlabelled = Pixels(images=pixels.images, labels=torch.full((40,), -1))
    plain, mixed = feed(unlabelled), feed(unlabelled, mixing=BOTH)

    assert mixed.batch(0).labels.equal(torch.full((8,), -1))
    assert not mixed.batch(0).images.equal(plain.batch(0).images)


def test_one_class_can_be_mixed(pixels):
    single = Pixels(images=pixels.images, labels=torch.zeros(40, dtype=torch.int64))

    assert feed(single, mixing=BOTH, num_classes=1).batch(0).labels.flatten().tolist() == pytest.approx([1.0] * 8)


def test_mixed_labels_train_with_label_smoothing(pixels, task, training):
    given = task(training(label_smoothing=0.1))
    batch = feed(pixels, mixing=BOTH, num_classes=4).batch(0)
    logits = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))

    loss = given.method.label_loss(logits, batch)

    smoothed = batch.labels * 0.9 + 0.1 / 4
    assert loss.item() == pytest.approx(-(smoothed * logits.log_softmax(1)).sum(1).mean().item(), abs=1e-6)


@pytest.fixture
def stored_pixels(tmp_path):
    """The same 40 pictures mapped into memory, and decoded on demand."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 1)):
        for label in range(2):
            folder = tmp_path / "pictures" / split / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 256, (8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index:02d}.png")
    ingest_folder(tmp_path / "pictures", tmp_path / "stored")
    with StoredDataset.open(tmp_path / "stored") as stored:
        return (
            load_pixels(stored, "train", 8, tmp_path / "cache"),
            load_pixels(stored, "train", 8, tmp_path / "cache", max_bytes=0, threads=2),
        )


@pytest.mark.parametrize("mixing", [None, BOTH])
@pytest.mark.parametrize("views", [None, 1, 2])
def test_pictures_on_demand_give_the_same_batches(stored_pixels, mixing, views):
    mapped, loose = (
        feed(pixels, views=views, mixing=mixing, num_classes=2 if mixing else None) for pixels in stored_pixels
    )

    for step in (*range(12), 3, 30):
        one, other = mapped.batch(step), loose.batch(step)
        assert one.images.equal(other.images)
        assert one.labels.equal(other.labels)
        assert one.indices.equal(other.indices)
    block = torch.arange(8, 16)
    assert mapped.augmented(1, block).equal(loose.augmented(1, block))
    assert mapped.batch(30).images.equal(loose.batch(30).images)


@pytest.mark.parametrize("mixing", [None, BOTH])
def test_the_next_steps_pictures_are_on_their_way(stored_pixels, mixing, monkeypatch):
    _, pixels = stored_pixels
    one = feed(pixels, views=1, mixing=mixing, num_classes=2 if mixing else None)
    one.batch(3)  # the next ones are the last of an epoch, and the first of the next
    begun = []
    monkeypatch.setattr(decoding.Decoder, "_begin", lambda _, place: begun.append(place))
    monkeypatch.setattr(decoding.Decoder, "expect", lambda *_: None)

    one.batch(4)
    one.batch(5)

    assert begun == []

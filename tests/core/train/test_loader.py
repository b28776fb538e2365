"""Batches are a function of (pixels, seed, step)."""

import numpy as np
import pytest
import torch
from PIL import Image

from core.data import decoding
from core.data.mixing import Mixing, mix_images
from core.data.pixels import Pixels, load_pixels
from core.data.stored import StoredDataset
from core.data.views import apply_view, view_table
from core.ingest.dataset import ingest_folder
from core.train.loader import BatchLoader

CPU = torch.device("cpu")


def make_loader(pixels, **more):
    options = {"batch_size": 8, "augmentation": "light", "views": None, "seed": 0, "device": CPU, **more}
    return BatchLoader(pixels, **options)


def test_an_epoch_has_every_sample_once(pixels):
    loader = make_loader(pixels)

    seen = torch.cat([loader.batch(step).indices for step in range(5, 10)])

    assert sorted(seen.tolist()) == list(range(40))


def test_labels_match_their_images(pixels):
    batch = make_loader(pixels, augmentation="none").batch(3)

    assert batch.labels.equal(pixels.labels[batch.indices])
    assert torch.equal((batch.images * 255).round().to(torch.uint8), torch.from_numpy(pixels.images[batch.indices]))


def test_a_loader_can_start_at_any_step(pixels):
    sequential, direct = make_loader(pixels), make_loader(pixels)
    for step in range(17):
        sequential.batch(step)

    assert direct.batch(17).images.equal(sequential.batch(17).images)


def test_another_seed_gives_another_order(pixels):
    batch, other = make_loader(pixels).batch(0), make_loader(pixels, seed=1).batch(0)

    assert not batch.indices.equal(other.indices)


def by_sample(loader, epoch):
    batches = [loader.batch(5 * epoch + step) for step in range(5)]
    order = torch.cat([batch.indices for batch in batches])
    return torch.cat([batch.images for batch in batches])[order.argsort()]


def test_v_views_repeat_after_v_epochs_in_another_order(pixels):
    loader = make_loader(pixels, views=2, augmentation="strong")

    assert by_sample(loader, 0).equal(by_sample(loader, 2))
    assert by_sample(loader, 1).equal(by_sample(loader, 3))
    assert not by_sample(loader, 0).equal(by_sample(loader, 1))
    assert not loader.batch(0).indices.equal(loader.batch(10).indices)


def test_without_views_every_epoch_has_a_new_view(pixels):
    loader = make_loader(pixels, augmentation="strong")

    assert not by_sample(loader, 0).equal(by_sample(loader, 2))


BOTH = Mixing(mixup=0.8, cutmix=1.0)


def mixed_by_hand(pixels, augmentation, seed, view, index):
    """Compute the mixed image and label of one sample alone."""
    table = view_table(seed, view, len(pixels))
    draws = BOTH.draw(table[index : index + 1], num_samples=len(pixels), height=8, width=8)
    pair = torch.tensor([index, draws.partners.item()])
    own, partner = apply_view(pixels.batch(pair), table[pair], augmentation).split(1)
    labels = torch.eye(4)[pixels.labels[pair]]
    share = draws.label_weights.item()
    return mix_images(own, partner, draws)[0], share * labels[0] + (1 - share) * labels[1]


def test_a_mixed_sample_is_a_function_of_seed_view_and_index(pixels):
    loader = make_loader(pixels, augmentation="strong", mixing=BOTH, num_classes=4, seed=3)

    for step in (0, 7):
        batch = loader.batch(step)
        for image, label, index in zip(batch.images, batch.labels, batch.indices.tolist(), strict=True):
            expected_image, expected_label = mixed_by_hand(pixels, "strong", 3, step // 5, index)
            assert image.equal(expected_image)
            assert label.tolist() == pytest.approx(expected_label.tolist(), abs=1e-6)


@pytest.mark.parametrize("mixing", [BOTH, Mixing(0.0, 1.0, 0.3), Mixing(0.2, 0.0)])
@pytest.mark.parametrize("augmentation", ["light", "strong"])
def test_mixed_samples_do_not_depend_on_the_batch_size(pixels, mixing, augmentation):
    def epoch(batch_size):
        loader = make_loader(pixels, batch_size=batch_size, augmentation=augmentation, mixing=mixing, num_classes=4)
        batches = [loader.batch(step) for step in range(loader.steps_per_epoch)]
        order = torch.cat([batch.indices for batch in batches]).argsort()
        images, labels = torch.cat([b.images for b in batches]), torch.cat([b.labels for b in batches])
        return images[order], labels[order]

    images, labels = epoch(40)

    for size in (1, 7):
        some_images, some_labels = epoch(size)
        assert images.equal(some_images)
        assert labels.equal(some_labels)


@pytest.mark.parametrize("mixing", [None, BOTH])
def test_a_view_read_in_blocks_has_the_bits_of_its_batches(pixels, mixing):
    loader = make_loader(pixels, augmentation="strong", views=2, mixing=mixing, num_classes=4)
    blocks = torch.cat([loader.augmented(1, torch.arange(start, min(start + 16, 40))) for start in range(0, 40, 16)])

    for step in (5, 9, 15):  # of view 1
        batch = loader.batch(step)
        assert blocks[batch.indices].equal(batch.images)


def test_reading_another_view_between_batches_changes_no_batch(pixels):
    reference, loader = make_loader(pixels), make_loader(pixels)
    reference.batch(0)
    loader.batch(0)
    loader.augmented(1, torch.arange(40))

    assert loader.batch(5).images.equal(reference.batch(5).images)


def test_mixed_labels_are_probabilities_that_differ_from_one_hot_labels(pixels):
    labels = make_loader(pixels, mixing=BOTH, num_classes=4).batch(0).labels

    assert labels.dtype == torch.float32
    assert labels.shape == (8, 4)
    assert labels.sum(1).tolist() == pytest.approx([1.0] * 8)
    assert (labels.max(1).values < 1).any()


def test_labels_of_a_batch_without_mixed_images_are_probabilities(pixels):
    batch = make_loader(pixels, mixing=Mixing(0.8, 0.0, 1e-9), num_classes=4, augmentation="strong").batch(0)

    assert batch.labels.equal(torch.eye(4)[pixels.labels[batch.indices]])
    assert batch.images.equal(make_loader(pixels, augmentation="strong").batch(0).images)


def test_unlabeled_images_are_mixed_and_keep_their_labels(pixels):
    unlabeled = Pixels(images=pixels.images, labels=torch.full((40,), -1))
    plain, mixed = make_loader(unlabeled), make_loader(unlabeled, mixing=BOTH)

    assert mixed.batch(0).labels.equal(torch.full((8,), -1))
    assert not mixed.batch(0).images.equal(plain.batch(0).images)


def test_a_single_class_can_be_mixed(pixels):
    single = Pixels(images=pixels.images, labels=torch.zeros(40, dtype=torch.int64))

    assert make_loader(single, mixing=BOTH, num_classes=1).batch(0).labels.flatten().tolist() == pytest.approx(
        [1.0] * 8
    )


def test_mixed_labels_train_with_label_smoothing(pixels, make_setup, training):
    setup = make_setup(training(label_smoothing=0.1))
    batch = make_loader(pixels, mixing=BOTH, num_classes=4).batch(0)
    logits = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))

    loss = setup.method.label_loss(logits, batch)

    smoothed = batch.labels * 0.9 + 0.1 / 4
    assert loss.item() == pytest.approx(-(smoothed * logits.log_softmax(1)).sum(1).mean().item(), abs=1e-6)


@pytest.fixture
def stored_pixels(tmp_path):
    """The same 40 images, mapped into memory and decoded on demand."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 1)):
        for label in range(2):
            folder = tmp_path / "images" / split / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 256, (8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index:02d}.png")
    ingest_folder(tmp_path / "images", tmp_path / "stored")
    with StoredDataset.open(tmp_path / "stored") as stored:
        return (
            load_pixels(stored, "train", 8, tmp_path / "cache"),
            load_pixels(stored, "train", 8, tmp_path / "cache", max_bytes=0, threads=2),
        )


@pytest.mark.parametrize("mixing", [None, BOTH])
@pytest.mark.parametrize("views", [None, 1, 2])
def test_images_decoded_on_demand_give_the_same_batches(stored_pixels, mixing, views):
    mapped, on_demand = (
        make_loader(pixels, views=views, mixing=mixing, num_classes=2 if mixing else None) for pixels in stored_pixels
    )

    for step in (*range(12), 3, 30):
        expected, actual = mapped.batch(step), on_demand.batch(step)
        assert actual.images.equal(expected.images)
        assert actual.labels.equal(expected.labels)
        assert actual.indices.equal(expected.indices)
    block = torch.arange(8, 16)
    assert mapped.augmented(1, block).equal(on_demand.augmented(1, block))
    assert mapped.batch(30).images.equal(on_demand.batch(30).images)


@pytest.mark.parametrize("mixing", [None, BOTH])
def test_images_of_the_next_steps_are_prefetched(stored_pixels, mixing, monkeypatch):
    _, pixels = stored_pixels
    loader = make_loader(pixels, views=1, mixing=mixing, num_classes=2 if mixing else None)
    loader.batch(3)  # prefetches the last batch of the epoch and the first of the next
    started = []
    monkeypatch.setattr(decoding.Decoder, "_submit", lambda _, index: started.append(index))
    monkeypatch.setattr(decoding.Decoder, "prefetch", lambda *_: None)

    loader.batch(4)
    loader.batch(5)

    assert started == []

"""Batches are a function of (pixels, seed, step)."""

import torch

from core.train.feed import Feed

CPU = torch.device("cpu")


def feed(pixels, **more):
    options = {"batch_size": 8, "augmentation": "light", "views": None, "seed": 0, "device": CPU, **more}
    return Feed(pixels, **options)


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

import numpy as np
import pytest
import torch

from core.evaluate import agreement, evaluate_accuracy, predict, score


def test_scores_of_a_hand_made_example():
    logits = torch.tensor([[3.0, 2, 1, 0, 0, 0], [0, 3, 2, 1, 0, 0], [9, 8, 7, 6, 5, 0], [1, 0, 0, 0, 0, 2]])
    accuracy = score(logits, torch.tensor([0, 2, 5, 5]))

    assert accuracy.top1 == 0.5
    assert accuracy.top5 == 0.75
    assert accuracy.per_class == (1.0, None, 0.0, None, None, 0.5)
    assert accuracy.predictions.tolist() == [0, 1, 0, 5]
    assert accuracy.num_samples == 4


def test_top5_is_one_with_few_classes():
    assert score(torch.rand(10, 3), torch.arange(10) % 3).top5 == 1.0


def test_images_arrive_in_batches_of_values_in_0_to_1(dataset):
    batch_sizes = []

    def logits(images):
        batch_sizes.append(len(images))
        assert images.dtype == torch.float32
        assert 0 <= images.min() <= images.max() <= 1
        return images.mean(dim=(1, 2, 3))[:, None].expand(-1, 3)

    outputs = predict(logits, dataset.images, batch_size=25)

    assert batch_sizes == [25, 25, 10]
    assert np.allclose(outputs[:, 0], dataset.images.reshape(60, -1).mean(1) / 255)


def test_a_perfect_model_has_accuracy_one(dataset):
    images = dataset.images.copy()
    images[:, 0, 0, 0] = dataset.labels.numpy()
    readable = type(dataset)(images, dataset.labels)

    accuracy = evaluate_accuracy(lambda x: -((x[:, 0, 0, :1] * 255 - torch.arange(3.0)) ** 2), readable)
    assert accuracy.top1 == 1.0
    assert accuracy.per_class == (1.0, 1.0, 1.0)


def test_poll_can_interrupt(dataset):
    def poll():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(lambda x: x, dataset.images, poll=poll)


def test_agreement_is_the_fraction_of_equal_predictions():
    assert agreement(torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 1, 3])) == 0.75

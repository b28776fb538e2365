import numpy as np
import pytest
import torch

from core.evaluate import agreement, evaluate_accuracy, predict, score


def test_a_hand_made_case():
    logits = torch.tensor([[3.0, 2, 1, 0, 0, 0], [0, 3, 2, 1, 0, 0], [9, 8, 7, 6, 5, 0], [1, 0, 0, 0, 0, 2]])
    accuracy = score(logits, torch.tensor([0, 2, 5, 5]))

    assert accuracy.top1 == 0.5
    assert accuracy.top5 == 0.75
    assert accuracy.per_class == (1.0, None, 0.0, None, None, 0.5)
    assert accuracy.predictions.tolist() == [0, 1, 0, 5]
    assert accuracy.num_samples == 4


def test_with_few_classes_top_five_is_always_right():
    assert score(torch.rand(10, 3), torch.arange(10) % 3).top5 == 1.0


def test_pictures_come_as_numbers_from_zero_to_one_in_batches(pictures):
    seen = []

    def logits(images):
        seen.append(len(images))
        assert images.dtype == torch.float32
        assert 0 <= images.min() <= images.max() <= 1
        return images.mean(dim=(1, 2, 3))[:, None].expand(-1, 3)

    answers = predict(logits, pictures.images, batch_size=25)

    assert seen == [25, 25, 10]
    assert np.allclose(answers[:, 0], pictures.images.reshape(60, -1).mean(1) / 255)


def test_a_model_that_knows_the_labels_is_always_right(pictures):
    images = pictures.images.copy()
    images[:, 0, 0, 0] = pictures.labels.numpy()
    known = type(pictures)(images, pictures.labels)

    accuracy = evaluate_accuracy(lambda x: -((x[:, 0, 0, :1] * 255 - torch.arange(3.0)) ** 2), known)
    assert accuracy.top1 == 1.0
    assert accuracy.per_class == (1.0, 1.0, 1.0)


def test_polling_may_end_it(pictures):
    def poll():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(lambda x: x, pictures.images, poll=poll)


def test_agreement_is_the_fraction_of_equal_decisions():
    assert agreement(torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 1, 3])) == 0.75

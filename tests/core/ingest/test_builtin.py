import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from core.ingest.builtin import builtin_files


@pytest.mark.parametrize(("name", "count", "size"), [("digits", 1797, (8, 8)), ("mnist-5k", 5000, (28, 28))])
def test_a_built_in_dataset_has_ten_classes_of_grayscale_images(name, count, size):
    files = list(builtin_files(name))
    images = [Image.open(io.BytesIO(file.content)) for file in files[:20]]

    assert len({file.path for file in files}) == count
    assert {file.path.split("/")[0] for file in files} == set("0123456789")
    assert {(image.mode, image.size) for image in images} == {("L", size)}
    assert max(np.asarray(image).max() for image in images) == 255


def test_few_labels_and_images_without_labels_are_disjoint_parts_of_mnist():
    labeled, unlabeled = list(builtin_files("mnist-300")), list(builtin_files("mnist-unlabeled"))
    names = [{file.path.split("/")[-1] for file in files} for files in (labeled, unlabeled)]

    assert Counter(file.path[: file.path.rindex("/")] for file in labeled) == {
        f"{split}/{digit}": count for split, count in (("train", 30), ("test", 100)) for digit in range(10)
    }
    assert Counter(file.path.split("/")[0] for file in unlabeled) == {"train": 3600, "test": 100}
    assert names[0].isdisjoint(names[1])

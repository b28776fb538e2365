import io

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

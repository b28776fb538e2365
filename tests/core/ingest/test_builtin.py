import io

import numpy as np
import pytest
from PIL import Image

from core.ingest.builtin import builtin_files


@pytest.mark.parametrize(("name", "count", "size"), [("digits", 1797, (8, 8)), ("mnist-5k", 5000, (28, 28))])
def test_a_built_in_dataset_has_ten_classes_of_greyscale_pictures(name, count, size):
    files = list(builtin_files(name))
    pictures = [Image.open(io.BytesIO(file.content)) for file in files[:20]]

    assert len({file.path for file in files}) == count
    assert {file.path.split("/")[0] for file in files} == set("0123456789")
    assert {(picture.mode, picture.size) for picture in pictures} == {("L", size)}
    assert max(np.asarray(picture).max() for picture in pictures) == 255

"""Datasets as files, archives and Parquet tables."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import settings
from PIL import Image

from core.ingest.dataset import ingest_archive
from tests.support.archives import encode_image, make_tar, make_zip

# The duration of an example depends on the load of the machine, not on the code.
settings.register_profile("core", deadline=None)
settings.load_profile("core")


def _random_image(seed=0, size=(8, 8), mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.fixture(scope="session")
def encoded():
    """Make the bytes of an image file: of a given image, else of random pixels."""

    def make(image=None, *, kind="PNG", seed=0, size=(8, 8), mode="RGB", **options):
        return encode_image(image or _random_image(seed, size, mode), kind, **options)

    return make


@pytest.fixture(scope="session")
def tree(encoded):
    """The files of a small dataset: ``train`` with 5 and ``test`` with 2 images per class."""

    def make(classes=("cat", "dog"), *, train=5, test=2):
        counts = {"train": train, "test": test}
        names = [f"{split}/{c}/{i:02d}.png" for split, n in counts.items() for c in classes for i in range(n)]
        return {name: encoded(seed=seed) for seed, name in enumerate(names)}

    return make


@pytest.fixture(scope="session")
def zipped():
    """Make a zip archive of contents by name."""
    return make_zip


@pytest.fixture(scope="session")
def tarred():
    """Make a tar archive of contents by name."""
    return make_tar


@pytest.fixture(scope="session")
def parquet():
    """Make a Parquet file in the layout of the Hugging Face hub from (image file, label) pairs."""

    def make(samples, names=None, **extra_columns):
        cells = [{"bytes": content, "path": None} for content, _ in samples]
        image = pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
        features = {"image": {"_type": "Image"}}
        if names is not None:
            features["label"] = {"_type": "ClassLabel", "names": list(names)}
        table = pa.table({"image": image, "label": [label for _, label in samples], **extra_columns})
        out = io.BytesIO()
        metadata = json.dumps({"info": {"features": features}})
        pq.write_table(table.replace_schema_metadata({"huggingface": metadata}), out)
        return out.getvalue()

    return make


@pytest.fixture
def ingest(tmp_path):
    """Ingest an archive given as bytes into ``tmp_path/NAME``."""

    def run(content, name="stored", **options):
        path = tmp_path / "upload"
        path.write_bytes(content)
        return ingest_archive(path, tmp_path / name, **options)

    return run

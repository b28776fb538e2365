import io
import json
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import settings
from PIL import Image

from core.ingest.dataset import ingest_archive

# How long an example takes says more about the machine's other work than about the code.
settings.register_profile("data", deadline=None)
settings.load_profile("data")


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


def _picture(seed=0, size=(8, 8), mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.fixture(scope="session")
def encoded():
    """Make the bytes of an image file: of a given picture, else of random pixels."""

    def make(picture=None, *, kind="PNG", seed=0, size=(8, 8), mode="RGB", **options):
        out = io.BytesIO()
        (picture or _picture(seed, size, mode)).save(out, kind, **options)
        return out.getvalue()

    return make


@pytest.fixture(scope="session")
def tree(encoded):
    """The files of a small dataset: ``train`` with 5 and ``test`` with 2 pictures a class."""

    def make(classes=("cat", "dog"), *, train=5, test=2):
        counts = {"train": train, "test": test}
        names = [f"{split}/{c}/{i:02d}.png" for split, n in counts.items() for c in classes for i in range(n)]
        return {name: encoded(seed=seed) for seed, name in enumerate(names)}

    return make


@pytest.fixture(scope="session")
def zipped():
    def make(files, compression=zipfile.ZIP_STORED):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", compression) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return out.getvalue()

    return make


@pytest.fixture(scope="session")
def tarred():
    def make(files, mode="w"):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode=mode) as archive:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return out.getvalue()

    return make


@pytest.fixture(scope="session")
def parquet():
    """Make a Parquet file as the Hugging Face hub has them, of (image file, label) pairs."""

    def make(samples, names=None, **more):
        cells = [{"bytes": content, "path": None} for content, _ in samples]
        image = pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
        features = {"image": {"_type": "Image"}}
        if names is not None:
            features["label"] = {"_type": "ClassLabel", "names": list(names)}
        table = pa.table({"image": image, "label": [label for _, label in samples], **more})
        out = io.BytesIO()
        hub = json.dumps({"info": {"features": features}})
        pq.write_table(table.replace_schema_metadata({"huggingface": hub}), out)
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

import pytest
from PIL import Image

from core.data.stored import StoredDataset
from core.ingest.dataset_writer import DatasetWriter
from core.ingest.folder_layout import infer_layout
from core.ingest.image_check import check_image


@pytest.fixture
def write(tmp_path, encoded):
    def run(paths, layout_paths=None):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        writer = DatasetWriter(folder)
        for seed, path in enumerate(paths):
            content = encoded(Image.new("L", (4 + seed, 4)))
            writer.add(path, content, check_image(content, 1000))
        index = writer.finish(infer_layout(layout_paths or writer.paths(), seed=0), name="x")
        return folder, index

    return run


PATHS = [f"{c}/{i}.png" for c in "ab" for i in range(5)]


def test_a_written_dataset_can_be_opened(write):
    folder, index = write(PATHS)

    with StoredDataset.open(folder) as stored:
        assert stored.fingerprint == index.fingerprint
        assert sorted(stored.split("train").paths + stored.split("test").paths) == PATHS


def test_images_outside_the_layout_are_not_in_the_index(write):
    folder, _ = write([*PATHS, "a/left-out.png"], layout_paths=PATHS)

    with StoredDataset.open(folder) as stored:
        assert sorted(stored.split("train").paths + stored.split("test").paths) == PATHS
        assert stored.split("train").read(0).size[1] == 4


def test_the_fingerprint_depends_on_the_image_shape(tmp_path, encoded):
    fingerprints = set()
    for size in ((2, 8), (8, 2), (4, 4)):
        folder = tmp_path / f"{size}"
        folder.mkdir()
        writer = DatasetWriter(folder)
        for path in PATHS:
            content = encoded(Image.new("L", size))
            writer.add(path, content, check_image(content, 1000))
        fingerprints.add(writer.finish(infer_layout(PATHS, seed=0), name="x").fingerprint)

    assert len(fingerprints) == 3

import pytest
from PIL import Image

from core.data.stored import StoredDataset
from core.ingest.dataset_writer import StoredWriter
from core.ingest.folder_layout import arrange


@pytest.fixture
def write(tmp_path, encoded):
    def run(paths, arranged=None):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        writer = StoredWriter(folder)
        for seed, path in enumerate(paths):
            picture = Image.new("L", (4 + seed, 4))
            writer.add(path, encoded(picture), picture)
        index = writer.finish(arrange(arranged or writer.paths(), seed=0), name="x")
        return folder, index

    return run


PATHS = [f"{c}/{i}.png" for c in "ab" for i in range(5)]


def test_what_is_written_can_be_opened(write):
    folder, index = write(PATHS)

    with StoredDataset.open(folder) as stored:
        assert stored.fingerprint == index.fingerprint
        assert sorted(stored.split("train").paths + stored.split("test").paths) == PATHS


def test_images_that_the_layout_leaves_out_are_not_reached(write):
    folder, _ = write([*PATHS, "a/left-out.png"], arranged=PATHS)

    with StoredDataset.open(folder) as stored:
        assert sorted(stored.split("train").paths + stored.split("test").paths) == PATHS
        assert stored.split("train").read(0).size[1] == 4


def test_pictures_of_other_shape_with_the_same_bytes_have_another_fingerprint(tmp_path):
    fingerprints = set()
    for size in ((2, 8), (8, 2), (4, 4)):
        folder = tmp_path / f"{size}"
        folder.mkdir()
        writer = StoredWriter(folder)
        for path in PATHS:
            writer.add(path, b"x", Image.new("L", size))
        fingerprints.add(writer.finish(arrange(PATHS, seed=0), name="x").fingerprint)

    assert len(fingerprints) == 3

"""Small files with high cost, which only process limits can stop. Uses real processes and limits."""

import time
import zlib

import pytest
from PIL import Image

from core.errors import DatasetRejected
from core.ingest_errors import IngestTimeout
from core.reporting import Control
from tests.hostile.corpus import LIMITS, encoded, tree, valid_png, zipped
from tests.hostile.images import png, scans, zip_with_image
from tests.hostile.zips import central_entry, local_entry, with_directory
from worker.ingest.sandboxed import ProcessLimits, SandboxTimeout, run_sandboxed


@pytest.fixture
def ingested(tmp_path):
    def run(content, *, seconds=30.0, memory_bytes=1024**3, file_bytes=10**9, **limits):
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        (tmp_path / "upload").write_bytes(content)
        request = {
            "file": str(tmp_path / "upload"),
            "out_folder": str(scratch / "stored"),
            "name": "hostile",
            "limits": {**LIMITS, **limits},
        }
        process = ProcessLimits(memory_bytes=memory_bytes, file_bytes=file_bytes, seconds=seconds)
        before = time.monotonic()
        try:
            return run_sandboxed(
                "core.ingest.sandboxed_main", request, process, scratch=scratch, control=lambda: Control.GO
            )
        finally:
            assert time.monotonic() - before < seconds + 30  # without a limit they take minutes on a loaded machine

    return run


def hundred_thousand_images():
    image = valid_png()
    crc, body, entries, offset = zlib.crc32(image), [], [], 0
    for index in range(100_000):
        name = b"train/%d/%06d.png" % (index % 2, index)
        body.append(local_entry(name, image, size=len(image), crc=crc, method=0))
        entries.append(central_entry(name, offset, packed=len(image), size=len(image), crc=crc, method=0))
        offset += len(body[-1]) + len(image)
        body.append(image)
    return with_directory(b"".join(body), entries)


def test_a_hundred_thousand_tiny_images_hit_the_time_limit(ingested):
    with pytest.raises((SandboxTimeout, IngestTimeout)):  # of the reader or of a decoder
        ingested(hundred_thousand_images(), seconds=1.5, max_archive_files=200_000)


def test_many_slow_images_hit_the_time_limit(ingested):
    many = zipped(tree({f"train/cat/slow{i}.jpg": scans(8_000, 100) for i in range(40)}))

    with pytest.raises((SandboxTimeout, IngestTimeout)):  # of the reader or of a decoder
        ingested(many, seconds=1.5)


def test_an_image_that_exceeds_the_memory_limit_fails_its_dataset(ingested):
    with pytest.raises(Exception, match="not enough memory") as error:
        ingested(zip_with_image("png", png(7_900, 7_900)), memory_bytes=150_000_000)
    assert error.value.code == "out_of_memory"


def test_files_that_exceed_the_disk_limit_fail_their_dataset(ingested):
    noise = {
        f"train/{c}/{i}.bmp": encoded(Image.new("RGB", (2_000, 2_000)), "BMP") for c in ("cat", "dog") for i in range(3)
    }

    with pytest.raises(DatasetRejected) as error:
        ingested(zipped(noise), file_bytes=1)  # plus 64 MiB for indexes
    assert error.value.code == "unpacked_too_large"

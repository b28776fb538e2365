"""Decoder processes: the results do not depend on their number, memory is bounded, and a crash names its file."""

import json
import os
import signal
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from core.errors import DatasetRejected, OutOfMemory, ProcessLost
from core.ingest import decoder_pool, decoder_process
from core.ingest.dataset import ingest_archive, ingest_folder
from core.ingest.decoder_pool import DecoderPool, check_files
from core.ingest.image_check import CheckedImage, MemoryExceeded, check_image
from core.ingest.source_files import SourceFile
from core.ingest_errors import IngestCrashed, IngestTimeout

MAX_PIXELS = 1_000_000


@pytest.fixture
def files(encoded):
    """Files of very different sizes, with broken and rejected ones between them."""
    found = []
    for index in range(150):
        found.append(SourceFile(f"{index}.png", encoded(seed=index, size=(3 + index % 90, 40))))
        if index % 7 == 0:
            found.append(SourceFile(f"{index}.broken", b"not an image"))
        if index % 11 == 0:
            found.append(SourceFile(f"{index}.txt", reason="no image suffix", code="not_an_image"))
    return found


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_the_results_are_those_of_one_process_in_the_order_of_the_files(files, processes):
    with DecoderPool(processes, max_pixels=MAX_PIXELS) as decoders:
        found = list(decoders.check(iter(files)))

    assert found == list(check_files(files, MAX_PIXELS))
    assert [file for file, _ in found] == files


def dataset_files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_dataset_has_the_same_bytes_for_any_number_of_processes(tree, zipped, encoded, parquet, tmp_path):
    deep = encoded(Image.fromarray(np.full((9, 20), 3000, np.uint16)))
    broken = {"train/cat/b.png": b"x", "notes.txt": b"", "train/dog/c.heic": b"", "train/dog/deep.png": deep}
    (tmp_path / "upload").write_bytes(zipped(tree(train=90) | broken))
    (tmp_path / "table").write_bytes(parquet([(encoded(seed=k), k % 2) for k in range(30)] + [(b"broken", 0)]))
    results = {}
    for processes in (0, 1, 2, 3):
        for source in ("upload", "table"):
            target = tmp_path / f"{source}-{processes}"
            if processes:
                with DecoderPool(processes, max_pixels=MAX_PIXELS) as decoders:
                    report = ingest_archive(tmp_path / source, target, decoders=decoders)
            else:
                report = ingest_archive(tmp_path / source, target)
            results.setdefault(source, []).append((report, dataset_files(target)))

    for source, (first, *others) in results.items():
        assert all(other == first for other in others), source
    rejected = [file.path for file in results["upload"][0][0].rejected]
    assert rejected == ["train/cat/b.png", "notes.txt", "train/dog/c.heic"]
    assert results["upload"][0][0].value_range.bits == 12


def test_a_folder_is_decoded_in_parallel(tree, tmp_path):
    for name, content in tree().items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(content)
    with DecoderPool(2, max_pixels=MAX_PIXELS) as decoders:
        parallel = ingest_folder(tmp_path / "folder", tmp_path / "a", decoders=decoders)
        again = ingest_folder(tmp_path / "folder", tmp_path / "b", decoders=decoders)

    assert parallel == again == ingest_folder(tmp_path / "folder", tmp_path / "c")


def test_the_bytes_in_memory_are_bounded(encoded, monkeypatch):
    """The source is read only as far as the unfinished tasks allow, also behind a slow file."""
    monkeypatch.setattr(decoder_pool, "MAX_PENDING_BYTES", 400_000)
    slow = encoded(Image.effect_noise((900, 900), 50), compress_level=9)
    content = encoded(size=(60, 60))
    ahead, yielded = 0, 0

    def source():
        nonlocal ahead
        for index in range(400):
            ahead = max(ahead, index - yielded)
            yield SourceFile(f"{index}.png", slow if index % 100 == 0 else content)

    with DecoderPool(3, max_pixels=MAX_PIXELS) as decoders:
        for _, result in decoders.check(source()):
            assert isinstance(result, CheckedImage)
            yielded += 1
        peak = decoders.peak_pending_bytes

    assert yielded == 400
    assert peak <= 400_000 + len(slow)
    assert ahead * len(content) <= 400_000 + len(slow) + decoder_pool._TASK_BYTES


def test_a_file_larger_than_every_buffer_is_checked(encoded):
    large = encoded(Image.effect_noise((1200, 800), 80), kind="BMP") + bytes(3_000_000)
    files = [SourceFile(f"{index}.bmp", large) for index in range(4)]

    with DecoderPool(2, max_pixels=MAX_PIXELS) as decoders:
        results = [result for _, result in decoders.check(files)]

    assert results == [check_image(large, MAX_PIXELS)] * 4


def test_an_error_of_the_source_comes_after_the_results_before_it(files):
    def source():
        yield from files[:70]
        raise DatasetRejected("the archive is damaged")

    with DecoderPool(2, max_pixels=MAX_PIXELS) as decoders:
        results = decoders.check(source())
        found = list(islice(results, 70))
        with pytest.raises(DatasetRejected, match="damaged"):
            next(results)

    assert found == list(check_files(files[:70], MAX_PIXELS))


def end_by(number):
    return lambda: os.kill(os.getpid(), number)


def crash(action):
    """Return a check that runs ``action`` for one content."""

    def check(content, max_pixels, buffer):
        if content == b"evil":
            action()
        return check_image(content, max_pixels, buffer)

    return check


@pytest.mark.parametrize(
    ("action", "error", "reason"),
    [
        (os.abort, IngestCrashed, "decoded 41.png ended by SIGABRT; remove this file"),
        (lambda: os._exit(3), IngestCrashed, "decoded 41.png ended with status 3"),
        (lambda: signal.raise_signal(signal.SIGSEGV), IngestCrashed, "41.png ended by SIGSEGV"),
        (lambda: signal.raise_signal(signal.SIGKILL), ProcessLost, "decoded 41.png was killed"),
        (lambda: signal.raise_signal(signal.SIGXCPU), IngestTimeout, "took too long, the last file was 41.png"),
    ],
)
def test_a_file_that_ends_its_decoder_is_named(encoded, monkeypatch, action, error, reason):
    # The kernel allows a sandboxed process to signal itself only through tgkill, which raise_signal uses.
    monkeypatch.setattr(decoder_process, "check_image", crash(action))
    content = encoded()
    files = [SourceFile(f"{index}.png", b"evil" if index == 41 else content) for index in range(300)]
    before = psutil.Process().children()

    with DecoderPool(2, max_pixels=MAX_PIXELS) as decoders, pytest.raises(error, match=reason):
        list(decoders.check(files))
    assert psutil.Process().children() == before


def test_an_image_without_enough_memory_is_named(encoded, monkeypatch, tmp_path, zipped, tree):
    def check(content, max_pixels, buffer):
        return MemoryExceeded() if content == b"evil" else check_image(content, max_pixels, buffer)

    monkeypatch.setattr(decoder_process, "check_image", check)
    (tmp_path / "upload").write_bytes(zipped(tree() | {"train/cat/large.png": b"evil"}))

    with (
        DecoderPool(2, max_pixels=MAX_PIXELS) as decoders,
        pytest.raises(OutOfMemory, match=r"not enough memory to decode train/cat/large\.png"),
    ):
        ingest_archive(tmp_path / "upload", tmp_path / "stored", decoders=decoders)
    assert not (tmp_path / "stored").exists()


def test_a_decoder_is_confined(tmp_path, monkeypatch):
    """It has no files, no network, no other process, and no descriptors but its pipes."""
    (tmp_path / "secret").write_text("secret")
    seen = tmp_path / "seen"
    descriptor = os.open(seen, os.O_CREAT | os.O_WRONLY)

    def attempt(work):
        try:
            work()
        except OSError as error:
            return type(error).__name__
        return "done"

    def check(content, max_pixels, buffer):
        tries = {
            "read": (tmp_path / "secret").read_text,
            "write": lambda: (tmp_path / "new").write_text("x"),
            "kill": lambda: os.kill(os.getppid(), 0),
            "fork": os.fork,
            "network": lambda: __import__("socket").socket(),
        }
        status = Path("/proc/self/status").read_text()
        privileges = status.split("NoNewPrivs:")[1].split()[0]
        outcomes = {name: attempt(work) for name, work in tries.items()} | {"privileges": privileges}
        os.write(descriptor, json.dumps(outcomes).encode())
        return check_image(content, max_pixels, buffer)

    monkeypatch.setattr(decoder_process, "check_image", check)
    with DecoderPool(1, max_pixels=MAX_PIXELS) as decoders:
        list(decoders.check([SourceFile("a.png", b"x")]))

    outcomes = json.loads(seen.read_text())
    if outcomes["fork"] == "done":
        pytest.skip("this system has no seccomp")
    assert outcomes.pop("privileges") == "1"
    assert set(outcomes.values()) == {"PermissionError"}


def test_decoders_end_with_the_pool(files):
    before = psutil.Process().children()
    with DecoderPool(3, max_pixels=MAX_PIXELS) as decoders:
        next(iter(decoders.check(files)))
        assert len(psutil.Process().children()) == len(before) + 3

    assert psutil.Process().children() == before


@pytest.mark.parametrize("line", [b"[]", b"[[1]]", b"{}", b'[[1, 2, 3, 4, null, "zz"]]', b"no json"])
def test_an_invalid_result_is_not_accepted(line):
    with pytest.raises(ValueError, match=r".*"):
        decoder_process.parse_results(line, 1)

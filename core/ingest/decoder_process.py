"""A decoder process: it checks image files that it gets over a pipe, confined to these pipes.

Messages are binary towards this process and JSON from it: the caller trusts no object of a process that decodes
untrusted files.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import traceback
import warnings
from collections.abc import Sequence
from typing import Any, BinaryIO, NoReturn

from core.data.images import PixelBuffer
from core.ingest.image_check import CheckedImage, CheckResult, MemoryExceeded, UnreadableImage, check_image
from core.system.parent_death import EXIT_CRASHED, EXIT_OUT_OF_MEMORY, die_with_parent
from core.system.sandbox import enter_sandbox

_COUNT, _SIZE = struct.Struct("<I"), struct.Struct("<Q")


def write_task(pipe: BinaryIO, contents: Sequence[bytes]) -> None:
    """Write the contents of some files as one task."""
    sizes = b"".join(_SIZE.pack(len(content)) for content in contents)
    pipe.write(_COUNT.pack(len(contents)) + sizes)
    pipe.writelines(contents)
    pipe.flush()


def parse_results(line: bytes, num_files: int) -> list[CheckResult]:
    """Parse one line with the results of a task. Raises ``ValueError`` if it is invalid."""
    documents = json.loads(line)
    if not isinstance(documents, list) or len(documents) != num_files:
        raise ValueError(f"{num_files} results are expected")
    try:
        return [_parse_result(document) for document in documents]
    except (TypeError, KeyError) as error:
        raise ValueError("a result is invalid") from error


def run_decoder(
    tasks: int, results: int, position: memoryview, *, parent: int, max_pixels: int, close: Sequence[int]
) -> NoReturn:
    """Check files until the end of ``tasks``, then exit; never return into the stack frames of the parent.

    Args:
        tasks: Descriptor of the pipe with tasks.
        results: Descriptor of the pipe for results.
        position: Shared memory; holds the index of the current file of a task, so that the caller can name a file
            that ends this process.
        parent: Process ID of the caller; this process ends with it.
        max_pixels: Limit on the pixels of an image.
        close: Other descriptors of the caller that this process must not hold.
    """
    status = EXIT_CRASHED
    try:
        die_with_parent(parent)
        for number in (signal.SIGTERM, signal.SIGINT):  # the caller ends this process
            signal.signal(number, signal.SIG_IGN)
        for descriptor in close:
            os.close(descriptor)
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1):
            os.dup2(nothing, descriptor)
        warnings.simplefilter("ignore")  # Pillow warns about unusual but readable files
        enter_sandbox(readable=(), writable=())
        with os.fdopen(tasks, "rb") as source, os.fdopen(results, "wb") as target:
            _serve(source, target, position, max_pixels)
        status = 0
    except MemoryError:
        status = EXIT_OUT_OF_MEMORY
    except BaseException:  # noqa: BLE001 - the caller reports the exit status
        traceback.print_exc()
    finally:
        os._exit(status)


def _serve(source: BinaryIO, target: BinaryIO, position: memoryview, max_pixels: int) -> None:
    buffer = PixelBuffer()
    while head := source.read(_COUNT.size):
        position[0] = 0
        (count,) = _COUNT.unpack(head)
        sizes = [_SIZE.unpack(source.read(_SIZE.size))[0] for _ in range(count)]
        documents = []
        for index, size in enumerate(sizes):
            position[0] = index
            documents.append(_result_document(check_image(source.read(size), max_pixels, buffer)))
        target.write(json.dumps(documents).encode() + b"\n")
        target.flush()


def _result_document(result: CheckResult) -> list[Any]:
    match result:
        case CheckedImage():
            numbers = (int(result.is_grayscale), result.width, result.height, result.crc32, result.max_value)
            return [*numbers, result.digest.hex()]
        case UnreadableImage():
            return [result.reason, result.code]
        case MemoryExceeded():
            return []


def _parse_result(document: Any) -> CheckResult:
    if not document:
        return MemoryExceeded()
    if len(document) == 2:
        reason, code = document
        return UnreadableImage(str(reason), str(code))
    is_grayscale, width, height, crc32, max_value, digest = document
    deepest = None if max_value is None else int(max_value)
    return CheckedImage(bool(is_grayscale), int(width), int(height), int(crc32), bytes.fromhex(digest), deepest)

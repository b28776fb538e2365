"""Hostile zip archives."""

import io
import struct
import unicodedata
import warnings
import zipfile
import zlib

from tests.hostile.corpus import accepted, fails, rejected_file, tree, valid_png, zipped

LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
ZEROS = b"\0" * 20_000_000
ODD = "train/cat/odd.png"


def info(name, **fields):
    entry = zipfile.ZipInfo(name)
    for field, value in fields.items():
        setattr(entry, field, value)
    return entry


def patched(archive, name, *, local=None, central=None, form="<H", value=0):
    """Overwrite one number in the headers of one entry, at these offsets from the signatures."""
    content = bytearray(archive)
    encoded_name = name.encode()
    for signature, offset_in, header in ((LOCAL, local, 30), (CENTRAL, central, 46)):
        start = content.find(signature)
        while start >= 0 and offset_in is not None:
            if content[start + header : start + header + len(encoded_name)] == encoded_name:
                struct.pack_into(form, content, start + offset_in, value)
            start = content.find(signature, start + 4)
    return bytes(content)


def local_entry(name, data, *, size, crc, method=8):
    return struct.pack("<4s5H3I2H", LOCAL, 20, 0, method, 0, 0, crc, len(data), size, len(name), 0) + name + data


def central_entry(name, offset, *, packed, size, crc, method=8, extra=b""):
    return (
        struct.pack(
            "<4s6H3I5H2I",
            CENTRAL,
            20,
            20,
            0,
            method,
            0,
            0,
            crc,
            packed,
            size,
            len(name),
            len(extra),
            0,
            0,
            0,
            0,
            offset,
        )
        + name
        + extra
    )


def with_directory(body, entries, *, before=b""):
    directory = b"".join(entries)
    count = min(len(entries), 0xFFFF)
    end = struct.pack("<4s4H2IH", END, 0, 0, count, count, len(directory), len(body), 0)
    return body + directory + before + end


# --- bombs ---------------------------------------------------------------------------------------


@fails("archive_bomb")
def zip_of_zeros():
    return zipped({f"train/cat/{i}.png": ZEROS for i in range(4)}, zipfile.ZIP_DEFLATED)


@fails("nested_archive")
def zip_of_zips_of_zips():
    inner = zipped({"0.png": ZEROS}, zipfile.ZIP_DEFLATED)
    middle = zipped({f"{i}.zip": inner for i in range(16)}, zipfile.ZIP_DEFLATED)
    return zipped({f"{i}.zip": middle for i in range(16)}, zipfile.ZIP_DEFLATED)


@fails("archive_bomb")
def zip_with_overlapping_files():
    """D. Fifield's zip bomb: each directory entry has its own header, all share the compressed bytes."""
    kernel = zlib.compress(ZEROS, 9)[2:-4]
    names = [b"train/cat/%02d.png" % i for i in range(50)]
    crc = zlib.crc32(ZEROS)
    headers = [local_entry(name, b"", size=len(ZEROS), crc=crc) for name in names]
    body = b"".join(headers) + kernel
    offsets = [sum(map(len, headers[:i])) for i in range(len(names))]
    packed = [len(body) - offset - 30 - len(name) for name, offset in zip(names, offsets, strict=True)]
    entries = [
        central_entry(
            name, offset, packed=size, size=1000, crc=crc
        )  # small declared sizes, so that only the overlap reveals it
        for name, offset, size in zip(names, offsets, packed, strict=True)
    ]
    return with_directory(body, entries)


@fails("archive_bomb")
def zip_with_many_entries_for_one_file():
    image = valid_png()
    body = local_entry(b"train/cat/0.png", image, size=len(image), crc=zlib.crc32(image), method=0)
    entry = central_entry(b"train/cat/0.png", 0, packed=len(image), size=len(image), crc=zlib.crc32(image), method=0)
    return with_directory(body, [entry] * 1000)


@fails("unpacked_too_large")
def zip64_that_declares_an_exabyte():
    data = zlib.compress(b"x")[2:-4]
    body = local_entry(b"train/cat/0.png", data, size=1, crc=0)
    extra = struct.pack("<HHQ", 1, 8, 2**60)
    return with_directory(
        body, [central_entry(b"train/cat/0.png", 0, packed=len(data), size=0xFFFFFFFF, crc=0, extra=extra)]
    )


@fails("archive_unreadable")
def zip64_with_an_offset_outside_the_archive():
    extra = struct.pack("<HHQ", 1, 8, 2**64 - 1)
    body = local_entry(b"train/cat/0.png", b"x", size=1, crc=0, method=0)
    return with_directory(body, [central_entry(b"train/cat/0.png", 0xFFFFFFFF, packed=1, size=1, crc=0, extra=extra)])


@fails("archive_unreadable")
def zip64_with_a_directory_of_a_terabyte():
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, 2**40, 0)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 1)
    end = struct.pack("<4s4H2IH", END, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return LOCAL + b"\0" * 100 + end64 + locator + end


@fails("too_many_files", max_archive_files=500)
def zip_with_too_many_files():
    return zipped({f"train/cat/{i}.png": b"" for i in range(501)})


@rejected_file(ODD, "file_too_large", max_file_bytes=100_000)
def zip_with_a_too_large_file():
    return zipped(tree({ODD: b"\0" * 100_001}))


@fails("file_too_large", max_file_bytes=10)
def zip_with_only_too_large_files():
    return zipped({"train/cat/0.png": valid_png(), "train/dog/0.png": valid_png(1)})


@fails("unpacked_too_large", max_unpacked_bytes=1_000_000)
def zip_with_too_many_bytes():
    return zipped(tree({ODD: b"\0" * 1_000_000}))


# --- wrong headers ----------------------------------------------------------------------------------------


@rejected_file(ODD, "file_damaged")
def zip_with_too_small_declared_sizes():
    return patched(
        zipped(tree({ODD: valid_png(9)}), zipfile.ZIP_DEFLATED), ODD, local=22, central=24, form="<I", value=10
    )


@rejected_file(ODD, "file_damaged")
def zip_with_too_large_declared_sizes():
    archive = zipped(tree({ODD: valid_png(9)}), zipfile.ZIP_DEFLATED)
    return patched(archive, ODD, local=22, central=24, form="<I", value=50_000_000)


@rejected_file(ODD, "file_damaged")
def zip_with_a_wrong_checksum():
    return patched(zipped(tree({ODD: valid_png(9)})), ODD, local=14, central=16, form="<I", value=1)


@rejected_file(ODD, "file_damaged")
def zip_with_two_names_for_one_file():
    archive = bytearray(zipped(tree({ODD: valid_png(9)})))
    offset_in = archive.find(ODD.encode())
    archive[offset_in : offset_in + len(ODD)] = b"/etc/cat/passwd.jpg".ljust(len(ODD), b"x")[: len(ODD)]
    return bytes(archive)


@rejected_file(ODD, "file_damaged")
def zip_with_invalid_compressed_data():
    archive = bytearray(zipped(tree({ODD: b"x" * 5000}), zipfile.ZIP_DEFLATED))
    offset_in = archive.find(ODD.encode()) + len(ODD)
    archive[offset_in : offset_in + 8] = b"\xff" * 8
    return bytes(archive)


@fails("archive_unreadable")
def truncated_zip():
    return zipped(tree())[:-60]


@fails("archive_unreadable")
def zip_with_a_broken_directory():
    return zipped(tree()).replace(CENTRAL, b"PK\x01\x03", 1)


@fails("archive_unreadable")
def zip_with_a_directory_of_another_size():
    archive = bytearray(zipped(tree()))
    struct.pack_into("<I", archive, archive.rfind(END) + 12, 17)
    return bytes(archive)


@fails("archive_unreadable")
def zip_in_several_parts():
    return patched(zipped(tree()), "train/cat/0.png", central=34, value=3)


@fails("archive_unreadable")
def zip64_in_several_parts():
    archive = zipped(tree())
    offset_in = archive.rfind(END)
    return archive[:offset_in] + struct.pack("<4sLQL", b"PK\x06\x07", 0, offset_in, 3) + archive[offset_in:]


@fails("no_images")
def empty_zip():
    return zipped({})


@fails("no_images")
def zip_of_texts():
    return zipped({"train/cat/readme.txt": b"hello", "notes.md": b"x"})


@accepted()
def zip_after_an_executable():
    return b"MZ" + b"\0" * 5000 + zipped(tree())


@fails("no_images")
def zip_with_a_second_directory_in_its_comment():
    """Readers differ in which directory they use; here the last one is used, and it is empty."""
    hidden = struct.pack("<4s4H2IH", END, 0, 0, 0, 0, 0, 0, 0)
    archive = bytearray(zipped(tree()))
    struct.pack_into("<H", archive, len(archive) - 2, len(hidden))
    return bytes(archive) + hidden


# --- encryption and compression -------------------------------------------------------------------


def _encrypted(archive, name):
    return patched(archive, name, local=6, central=8, value=1)


@fails("archive_encrypted")
def zip_with_a_password():
    archive = zipped({"train/cat/0.png": valid_png(), "train/dog/0.png": valid_png(1)})
    return _encrypted(_encrypted(archive, "train/cat/0.png"), "train/dog/0.png")


@rejected_file(ODD, "archive_encrypted")
def zip_with_one_encrypted_file():
    return _encrypted(zipped(tree({ODD: valid_png(9)})), ODD)


@rejected_file(ODD, "compression_unknown")
def zip_with_a_bzip2_file():
    return zipped([*tree().items(), (info(ODD, compress_type=zipfile.ZIP_BZIP2), b"\0" * 1000)])


@rejected_file(ODD, "compression_unknown")
def zip_with_an_lzma_file():
    return zipped([*tree().items(), (info(ODD, compress_type=zipfile.ZIP_LZMA), b"\0" * 1000)])


@rejected_file(ODD, "compression_unknown")
def zip_with_an_unknown_method():
    return patched(zipped(tree({ODD: valid_png(9)})), ODD, local=8, central=10, value=77)


# --- paths ---------------------------------------------------------------------------------------


def _named(name):
    return zipped(tree({name: valid_png(9)}))


@rejected_file("../../../outside.png", "unsafe_path")
def zip_with_a_relative_path_outside():
    return _named("../../../outside.png")


@rejected_file("train/../../outside.png", "unsafe_path")
def zip_with_a_path_outside_from_a_folder():
    return _named("train/../../outside.png")


@rejected_file("/tmp/potstill-hostile-outside.png", "unsafe_path")
def zip_with_an_absolute_path():
    return _named("/tmp/potstill-hostile-outside.png")


@rejected_file("C:/windows/outside.png", "unsafe_path")
def zip_with_a_drive_letter():
    return _named("C:/windows/outside.png")


@rejected_file("..\\..\\outside.png", "unsafe_path")
def zip_with_a_backslash_path_outside():
    return _named("..\\..\\outside.png")


@rejected_file("\\\\server\\share\\outside.png", "unsafe_path")
def zip_with_a_network_path():
    return _named("\\\\server\\share\\outside.png")


@rejected_file("train/cat/x\\x00.png", "unsafe_path")
def zip_with_a_nul_in_a_name():
    return _named("train/cat/xZ.png").replace(b"train/cat/xZ.png", b"train/cat/x\0.png")


@rejected_file("train/cat/\\x1b[2J.png", "unsafe_path")
def zip_with_a_terminal_escape_in_a_name():
    return _named("train/cat/\x1b[2J.png")


@rejected_file("train/cat/" + "x" * 289 + "…", "unsafe_path")
def zip_with_a_name_of_sixty_thousand_letters():
    return _named("train/cat/" + "x" * 60_000 + ".png")


@accepted()
def zip_with_device_names():
    return zipped(
        tree({f"train/cat/{name}.png": valid_png(9) for name in ("CON", "nul", "COM1", "aux", "-rf *", "$(id)")})
    )


@accepted()
def zip_with_three_hundred_nested_folders():
    return _named("train/cat/" + "a/" * 300 + "x.png")


@fails("unsafe_path")
def zip_with_only_outside_paths():
    return zipped({f"../{i}.png": valid_png(i) for i in range(3)})


# --- links and devices ------------------------------------------------------------------------------


def _special(mode, content=b"/etc/passwd"):
    return zipped([*tree().items(), (info(ODD, external_attr=mode << 16), content)])


@rejected_file(ODD, "special_file")
def zip_with_a_symbolic_link():
    return _special(0o120777)


@rejected_file(ODD, "special_file")
def zip_with_a_device():
    return _special(0o020666)


@rejected_file(ODD, "special_file")
def zip_with_a_pipe():
    return _special(0o010666)


# --- names that clash ---------------------------------------------------------------------------------


@rejected_file("train/cat/0.png", "duplicate_path")
def zip_with_the_same_name_twice():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return zipped([*tree().items(), ("train/cat/0.png", valid_png(9))])


@rejected_file("train/cat/0.png", "duplicate_path")
def zip_with_two_spellings_of_a_path():
    return zipped([*tree().items(), ("./train//cat/./0.png", valid_png(9))])


@rejected_file("train/cat/größe.png", "duplicate_path")
def zip_with_composed_and_decomposed_letters():
    names = [unicodedata.normalize(form, "train/cat/größe.png") for form in ("NFC", "NFD")]
    return zipped([*tree().items(), *((name, valid_png(i)) for i, name in enumerate(names))])


def _has_both(stored):
    assert stored.splits["train"] == {"num_samples": 4 + 2}


@accepted(_has_both)
def zip_with_names_that_differ_in_case():
    return zipped(tree({"train/cat/same.png": valid_png(8), "train/cat/SAME.PNG": valid_png(9)}))


@accepted()
def zip_with_system_files():
    return zipped(tree({"__MACOSX/train/cat/._0.png": b"x", "train/.DS_Store": b"x", "train/cat/Thumbs.db": b"x"}))


@rejected_file("train/cat/inner.tar.gz", "nested_archive")
def zip_with_images_and_an_archive():
    return zipped(tree({"train/cat/inner.tar.gz": b"\x1f\x8b" + io.BytesIO().getvalue()}))

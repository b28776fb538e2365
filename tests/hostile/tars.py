"""Hostile tar archives and archives of unsupported formats."""

import bz2
import gzip
import io
import lzma
import tarfile

from tests.hostile.corpus import fails, rejected_file, tarred, tree, valid_png

ODD = "train/cat/odd.png"
END = b"\0" * 1024
ZEROS = b"\0" * 70_000_000  # more than a small archive may unpack to


def info(name=ODD, **fields):
    entry = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(entry, field, value)
    return entry


def header(entry, *, form=tarfile.GNU_FORMAT):
    return entry.tobuf(form, "utf-8", "surrogateescape")


def pax(records):
    """Make a pax extended header for the next entry; records are not validated."""
    body = b""
    for key, value in records.items():
        line = f" {key}={value}\n".encode()
        length = len(line) + 1
        while len(str(length)) + len(line) != length:
            length += 1
        body += str(length).encode() + line
    entry = info("pax", type=tarfile.XHDTYPE, size=len(body))
    return header(entry, form=tarfile.USTAR_FORMAT) + body + b"\0" * (-len(body) % 512)


def plain(name=ODD, content=b""):
    return header(info(name, size=len(content))) + content + b"\0" * (-len(content) % 512)


# --- bombs ---------------------------------------------------------------------------------------


@fails("unpacked_too_large")
def tar_gz_of_sixteen_gigabytes():
    size = 16 * 1024**3
    block = gzip.compress(b"\0" * 2**24, 1)
    return gzip.compress(header(info(size=size))) + block * 64


@fails("archive_bomb")
def tar_gz_of_zeros():
    return gzip.compress(tarred({ODD: ZEROS}), 1)


@fails("archive_bomb")
def tar_bz2_of_zeros():
    return bz2.compress(tarred({ODD: ZEROS}), 1)


@fails("archive_bomb")
def tar_xz_of_zeros():
    return lzma.compress(tarred({"passed/over.txt": ZEROS}), preset=0)


@fails("archive_unreadable")
def tar_xz_that_needs_a_gigabyte_of_memory():
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 2**30}]
    return lzma.compress(tarred(tree()), format=lzma.FORMAT_XZ, filters=filters)


@fails("unpacked_too_large")
def tar_that_declares_four_exabytes():
    return plain("train/cat/0.png", valid_png()) + header(info(size=2**62)) + END


@fails("unpacked_too_large")
def tar_whose_extension_declares_an_exabyte():
    return pax({"size": 10**18}) + plain() + END


@fails("archive_unreadable")
def tar_with_a_negative_size():
    return plain("train/cat/0.png", valid_png()) + pax({"size": -(10**6)}) + plain() + END


@fails("archive_bomb")
def tar_with_an_extension_of_seventy_megabytes():
    return gzip.compress(header(info("pax", type=tarfile.XHDTYPE, size=70_000_000)) + ZEROS, 1)


@fails("archive_bomb")
def tar_with_a_name_of_seventy_megabytes():
    return gzip.compress(header(info("long", type=tarfile.GNUTYPE_LONGNAME, size=70_000_000)) + ZEROS, 1)


@fails("archive_bomb")
def tar_with_many_global_headers():
    return tarfile.TarInfo.create_pax_global_header({"comment": "x"}) * 100 + END


@fails("archive_unreadable")
def tar_with_an_endless_chain_of_headers():
    return (header(info("long", type=tarfile.GNUTYPE_LONGNAME, size=512)) + b"a" * 512) * 3000 + END


@fails("too_many_files", max_archive_files=500)
def tar_with_too_many_empty_files():
    return b"".join(plain(f"train/cat/{i}.png") for i in range(501)) + END


# --- sparse files ---------------------------------------------------------------------------------------


@fails("archive_unreadable")
def tar_with_an_endless_sparse_list():
    entry = bytearray(header(info(size=0, type=tarfile.GNUTYPE_SPARSE)))
    entry[482] = 1  # the list continues in the next block
    entry[148:156] = b" " * 8
    entry[148:156] = b"%06o\0 " % sum(entry)
    more = b"0" * 504 + b"\1" + b"\0" * 7
    return gzip.compress(bytes(entry) + more * 100_000, 1)


@fails("archive_unreadable")
def tar_with_a_sparse_map_in_its_data():
    sparse = {"GNU.sparse.major": 1, "GNU.sparse.minor": 0, "GNU.sparse.realsize": 2**40, "GNU.sparse.name": ODD}
    return gzip.compress(pax(sparse) + plain("holes", b"99999999\n" + b"1\n" * 1_000_000) + END, 1)


@fails("archive_unreadable")
def tar_with_a_sparse_map_in_its_header():
    sparse = {"GNU.sparse.size": 2**40, "GNU.sparse.map": ",".join(["0,1"] * 5000)}
    return pax(sparse) + plain() + END


@fails("archive_unreadable")
def tar_with_sparse_format_0():
    return pax({"GNU.sparse.size": 2**40, "GNU.sparse.numblocks": 1, "GNU.sparse.offset": 0}) + plain() + END


# --- links, devices, paths ------------------------------------------------------------------------


def _special(kind, linkname="/etc/passwd"):
    return tarred(tree(), extra=[(info(type=kind, linkname=linkname), b"")])


@rejected_file(ODD, "special_file")
def tar_with_a_symbolic_link():
    return _special(tarfile.SYMTYPE)


@rejected_file(ODD, "special_file")
def tar_with_a_hard_link():
    return _special(tarfile.LNKTYPE, "train/cat/0.png")


@rejected_file(ODD, "special_file")
def tar_with_a_character_device():
    return _special(tarfile.CHRTYPE)


@rejected_file(ODD, "special_file")
def tar_with_a_block_device():
    return _special(tarfile.BLKTYPE)


@rejected_file(ODD, "special_file")
def tar_with_a_pipe():
    return _special(tarfile.FIFOTYPE)


@rejected_file(ODD, "special_file")
def tar_that_writes_through_its_own_link():
    """A link to an outside folder and a file below it; neither may be written."""
    link = info("train/cat/odd.png", type=tarfile.SYMTYPE, linkname="/tmp")
    return tarred(tree(), extra=[(link, b"")])


@fails("special_file")
def tar_of_links():
    return tarred({}, extra=[(info(f"{i}.png", type=tarfile.SYMTYPE, linkname="/etc/passwd"), b"") for i in range(3)])


@rejected_file("../../../outside.png", "unsafe_path")
def tar_with_a_relative_path_outside():
    return tarred(tree({"../../../outside.png": valid_png(9)}))


@rejected_file("/tmp/potstill-hostile-outside.png", "unsafe_path")
def tar_with_an_absolute_path():
    return tarred(tree({"/tmp/potstill-hostile-outside.png": valid_png(9)}))


@rejected_file("train/cat/\\udcff.png", "unsafe_path")
def tar_with_a_name_that_is_not_utf8():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as archive:
        for name, content in tree({"train/cat/\udcff.png": valid_png(9)}).items():
            archive.addfile(info(name, size=len(content)), io.BytesIO(content))
    return out.getvalue()


@rejected_file("train/cat/0.png", "duplicate_path")
def tar_with_the_same_name_twice():
    return tarred(tree(), extra=[(info("train/cat/0.png", size=len(valid_png(9))), valid_png(9))])


@rejected_file("train/cat/inner.tar", "nested_archive")
def tar_with_a_tar_in_it():
    return tarred(tree({"train/cat/inner.tar": tarred(tree())}))


# --- damage --------------------------------------------------------------------------------------


@fails("archive_unreadable")
def truncated_tar():
    return tarred(tree())[:3000]


@fails("archive_unreadable")
def truncated_tar_gz():
    return tarred(tree(), "w:gz")[:-200]


@fails("archive_unreadable")
def tar_gz_with_a_wrong_checksum():
    content = bytearray(tarred(tree(), "w:gz"))
    content[-8] ^= 0xFF
    return bytes(content)


@fails("archive_unreadable")
def tar_with_a_damaged_header_in_the_middle():
    content = bytearray(tarred(tree()))
    content[1024 + 10] ^= 0xFF
    return bytes(content)


@fails("archive_unreadable")
def gzip_without_a_tar():
    return gzip.compress(b"hello" * 1000)


@fails("archive_unreadable")
def gzip_of_a_hundred_thousand_empty_members():
    return gzip.compress(b"") * 100_000


@fails("archive_unreadable")
def seven_zip():
    return b"7z\xbc\xaf\x27\x1c" + b"\0" * 600


@fails("archive_unreadable")
def rar():
    return b"Rar!\x1a\x07\x01\0" + b"\0" * 600


@fails("archive_unreadable")
def zstandard():
    return b"\x28\xb5\x2f\xfd" + b"\0" * 600

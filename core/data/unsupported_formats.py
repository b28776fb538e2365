"""Name files that are not read, by their content or their suffix: other formats with the fix, truncated files."""

from __future__ import annotations

_HEIC = "a HEIC image; convert it to JPEG"
_JPEG_XL = "a JPEG XL image; convert it to JPEG or PNG"
_JPEG_2000 = "a JPEG 2000 image; convert it to PNG"
_SVG = "an SVG drawing; export it as PNG"
_PSD = "a Photoshop document; export it as PNG"
_RAW = "a camera raw file; develop it to JPEG"
_VIDEO = "a video; extract its frames as JPEG"
_PDF = "a PDF document; export its pages as PNG"
_POSTSCRIPT = "a PostScript file; export it as PNG"
_DICOM = "a DICOM file; export it as 16-bit PNG"
_OPEN_EXR = "an image with floating-point pixels of unknown range; convert it to 8 or 16 bits"
_ICON = "an icon file; convert it to PNG"
_ARRAY = "a file of arrays, not an image; save each image as PNG"

_SUFFIXES = {
    (".heic", ".heif", ".hif"): _HEIC,
    (".jxl",): _JPEG_XL,
    (".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpm"): _JPEG_2000,
    (".svg", ".svgz"): _SVG,
    (".psd", ".psb"): _PSD,
    (
        ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".mrw", ".nef",
        ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
    ): _RAW,
    (
        ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".webm",
        ".wmv",
    ): _VIDEO,
    (".pdf",): _PDF,
    (".eps", ".ps", ".ai"): _POSTSCRIPT,
    (".dcm", ".dicom"): _DICOM,
    (".exr", ".hdr", ".pfm"): _OPEN_EXR,
    (".ico", ".icns", ".cur"): _ICON,
    (".npy", ".npz", ".h5", ".hdf5", ".mat", ".pkl", ".pickle"): _ARRAY,
}  # fmt: skip
_BY_SUFFIX = {suffix: name for suffixes, name in _SUFFIXES.items() for suffix in suffixes}

_BY_START = (
    (b"\xff\x0a", _JPEG_XL),
    (b"\0\0\0\x0cJXL \r\n\x87\n", _JPEG_XL),
    (b"\0\0\0\x0cjP  \r\n\x87\n", _JPEG_2000),
    (b"\xff\x4f\xff\x51", _JPEG_2000),
    (b"8BPS", _PSD),
    (b"%PDF", _PDF),
    (b"%!PS", _POSTSCRIPT),
    (b"\xc5\xd0\xd3\xc6", _POSTSCRIPT),
    (b"FUJIFILMCCD-RAW", _RAW),
    (b"IIRO", _RAW),
    (b"IIRS", _RAW),
    (b"IIU\0", _RAW),
    (b"FOVb", _RAW),
    (b"\0MRM", _RAW),
    (b"\x1aE\xdf\xa3", _VIDEO),
    (b"OggS", _VIDEO),
    (b"FLV\x01", _VIDEO),
    (b"\0\0\x01\xba", _VIDEO),
    (b"\0\0\x01\xb3", _VIDEO),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", _VIDEO),  # Windows Media
    (b"\x76\x2f\x31\x01", _OPEN_EXR),
    (b"#?RADIANCE", _OPEN_EXR),
    (b"#?RGBE", _OPEN_EXR),
    (b"\0\0\x01\0", _ICON),
    (b"icns", _ICON),
    (b"\x93NUMPY", _ARRAY),
    (b"\x89HDF\r\n\x1a\n", _ARRAY),
    (b"PK\x03\x04", "a zip file; unpack it first"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the image; run git lfs pull and pack again"),
)
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_RAW_BRAND = b"crx "  # Canon CR3
_STILL_BRANDS = frozenset({b"mif1", b"msf1"})
_DICOM_OFFSET = 128
_MAX_HEAD_BYTES = 1024  # enough for comments before the first tag of a text format
_TIFF_STARTS = (b"II*\0", b"MM\0*")
_CR2_MARK = b"CR\x02"  # at byte 8 of a TIFF header

# Tags of TIFF containers that cameras write.
_NEW_SUBFILE_TYPE, _SUB_IFDS, _DNG_VERSION = 254, 330, 50706


def name_by_suffix(suffix: str) -> str | None:
    """Return the name and the fix of a format that is not read, e.g. for ``.heic``; None for other suffixes."""
    return _BY_SUFFIX.get(suffix.lower())


def name_by_content(content: bytes) -> str | None:
    """Return the name and the fix of a format that is not read; None for unknown content."""
    head = content[:_MAX_HEAD_BYTES]
    for start, name in _BY_START:
        if head.startswith(start):
            return name
    if head[4:8] == b"ftyp":
        return _name_by_brands(head)
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return _VIDEO
    if head[_DICOM_OFFSET : _DICOM_OFFSET + 4] == b"DICM":
        return _DICOM
    return _text_format(head)


def is_camera_raw(content: bytes, tags: object) -> bool:
    """Whether a TIFF container is a camera raw file; ``tags`` are those of its first page (Pillow's ``tag_v2``).

    Its first page is a thumbnail or undeveloped sensor data, and a decoder shows either without a word.
    """
    get = getattr(tags, "get", None)
    if content.startswith(_TIFF_STARTS) and content[8:11] == _CR2_MARK:
        return True
    if get is None:
        return False
    is_thumbnail = isinstance(kind := get(_NEW_SUBFILE_TYPE, 0), int) and bool(kind & 1)
    return get(_DNG_VERSION) is not None or (is_thumbnail and get(_SUB_IFDS) is not None)


def is_shorter_than_declared(content: bytes) -> bool:
    """Whether a WebP, TIFF, AVIF or GIF file is shorter than it declares."""
    if content.startswith(b"RIFF"):
        return len(content) < 8 + int.from_bytes(content[4:8], "little")
    if content.startswith(_TIFF_STARTS):
        directory = int.from_bytes(content[4:8], "little" if content.startswith(b"II") else "big")
        return len(content) <= directory
    if content.startswith((b"GIF87a", b"GIF89a")):
        return not content.rstrip(b"\0").endswith(b";")
    if content[4:8] == b"ftyp":
        return _has_incomplete_box(content)
    return False


def _has_incomplete_box(content: bytes) -> bool:
    """Whether one of the top boxes of an ISO media file ends behind the file."""
    at = 0
    while at < len(content):
        size, head = int.from_bytes(content[at : at + 4], "big"), content[at : at + 16]
        if size == 1:  # the size follows the type
            size = int.from_bytes(head[8:], "big")
        if size == 0:  # up to the end of the file
            return False
        if size < 8 or at + size > len(content):
            return True
        at += size
    return False


def _name_by_brands(head: bytes) -> str | None:
    length = int.from_bytes(head[:4], "big")
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, min(length, len(head)), 4))}
    if brands & _HEIC_BRANDS:
        return _HEIC
    if brands & _AVIF_BRANDS:
        return None  # read; this one is damaged
    if _RAW_BRAND in brands:
        return _RAW
    return _HEIC if brands & _STILL_BRANDS else _VIDEO


def _text_format(head: bytes) -> str | None:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not text.startswith(b"<"):
        return None
    if b"<svg" in text:
        return _SVG
    return "a web page, not an image; download the image itself" if b"<html" in text or b"<!doctype" in text else None

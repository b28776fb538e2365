"""Image files and archives as bytes."""

import io
import tarfile
import zipfile

from PIL import Image


def encode_image(image, kind="PNG", **options):
    """Return the bytes of an image file."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def make_zip(files, compression=zipfile.ZIP_STORED):
    """Return the bytes of a zip archive with contents by name."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def make_tar(files, mode="w"):
    """Return the bytes of a tar archive with contents by name."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def make_color_dataset(num_per_class, more_files=None):
    """Return a zip with the splits train and test of red and blue images, plus files by name."""
    files = {}
    for split in ("train", "test"):
        for name, color in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
            for index in range(num_per_class):
                image = Image.new("RGB", (8, 8), tuple(min(255, channel + index) for channel in color))
                files[f"{split}/{name}/{index}.png"] = encode_image(image)
    return make_zip(files | (more_files or {}))

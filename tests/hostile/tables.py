"""Hostile Parquet files."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq

from tests.hostile.corpus import accepted, fails, rejected_file, tree, valid_png, zipped

FEATURES = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def parquet(columns, features=None, **options):
    table = pa.table(columns)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    out = io.BytesIO()
    pq.write_table(table, out, **options)
    return out.getvalue()


def rows(*cells, labels=None):
    cells = [{"bytes": valid_png(i), "path": "0.png"} for i in range(8)] + list(cells)
    labels = labels or [i % 2 for i in range(len(cells))]
    return parquet({"image": pa.array(cells, IMAGE), "label": labels}, FEATURES)


def varint(number):
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


@fails("archive_bomb")
def parquet_of_zeros():
    return parquet({"image": [b"\0" * 70_000_000], "label": [1]}, use_dictionary=False, compression="zstd")


@fails("archive_bomb")
def parquet_with_one_value_repeated_7000_times():
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 7000), pa.array([b"\0" * 10_000]))
    return parquet({"image": repeated.cast(pa.binary()), "label": [1] * 7000})


@fails("too_many_files")
def parquet_with_too_many_rows():
    return parquet({"image": pa.nulls(30_000, pa.binary()), "label": pa.array([0] * 30_000)})


@fails("archive_unreadable")
def parquet_with_a_page_that_declares_two_gigabytes():
    content = parquet({"image": [b"\0" * 1000], "label": [1]}, use_dictionary=False, compression="snappy")
    # PAR1, then the first page header: field 1 (page type) in two bytes, the tag of field 2, the uncompressed size.
    start = 4 + 3
    end = start + 1
    while content[end - 1] & 0x80:
        end += 1
    return content[:start] + varint((2**31 - 1) << 1) + content[end:]


@fails("archive_unreadable")
def truncated_parquet():
    return rows()[:-300]


@fails("archive_unreadable")
def parquet_with_a_footer_larger_than_the_file():
    return rows()[:-8] + (2**31 - 1).to_bytes(4, "little") + b"PAR1"


@fails("archive_unreadable")
def parquet_with_an_invalid_footer():
    content = bytearray(rows())
    size = int.from_bytes(content[-8:-4], "little")
    content[-8 - size : -8] = b"\xff" * size
    return bytes(content)


@fails("archive_unreadable")
def empty_parquet():
    return b"PAR1" + b"\0" * 4 + b"PAR1"


@fails("table_unclear")
def parquet_without_images():
    return parquet({"text": ["a", "b"], "label": [0, 1]})


@fails("table_unclear")
def parquet_with_two_columns_of_images():
    return parquet({"left": [valid_png()], "right": [valid_png(1)], "label": [0]})


@fails("table_unclear")
def parquet_with_class_names_that_are_not_strings():
    return parquet({"image": [valid_png()], "label": [0]}, {"label": {"_type": "ClassLabel", "names": [1, {"a": 2}]}})


@fails("table_unclear")
def inconsistent_parquet_files():
    def shard(names):
        features = {"label": {"_type": "ClassLabel", "names": names}}
        return parquet({"image": [valid_png()], "label": [0]}, features)

    return zipped({"train-0.parquet": shard(["cat", "dog"]), "train-1.parquet": shard(["dog", "cat"])})


@rejected_file("data.parquet#8", "row_invalid")
def parquet_with_a_row_that_names_an_outside_file():
    return rows({"bytes": None, "path": "/etc/passwd"})


@rejected_file("data.parquet#8", "row_invalid")
def parquet_with_a_row_without_an_image():
    return rows(None)


@rejected_file("data.parquet#8", "label_invalid")
def parquet_with_a_label_beyond_its_classes():
    return rows({"bytes": valid_png(9), "path": None}, labels=[0, 1] * 4 + [2**40])


@rejected_file("data.parquet#8", "image_unreadable")
def parquet_with_a_row_that_is_not_an_image():
    return rows({"bytes": b"no image", "path": None})


@rejected_file("data.parquet#8", "file_too_large", max_file_bytes=10_000)
def parquet_with_a_too_large_cell():
    return rows({"bytes": b"\0" * 10_001, "path": None})


@rejected_file("train/cat/odd.parquet", "table_unreadable")
def zip_with_images_and_a_broken_table():
    return zipped(tree({"train/cat/odd.parquet": b"PAR1" + b"x" * 100}))


@accepted()
def parquet_with_invalid_metadata():
    table = pa.table({"image": [valid_png(i) for i in range(8)], "label": [0, 1] * 4})
    out = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({b"huggingface": b"\xff{" * 1000}), out)
    return out.getvalue()

"""Benchmarks building splits from many records with images: time, peak memory, random access.

Each format is built in a separate process, whose peak memory is reported by the kernel.
"""

import argparse
import io
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
from PIL import Image
from pyarrow import parquet

LABELS = [f"type {number:02d}" for number in range(30)]

BUILD = """
import json, random, resource, sys, time
from dataset_scripts import load_gzs
source, images, cache, reads = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
start = time.perf_counter()
data = load_gzs("records", source, images or None, cache_dir=cache)
built = time.perf_counter() - start
start = time.perf_counter()
load_gzs("records", source, images or None, cache_dir=cache)
again = time.perf_counter() - start
rows = data.splits["test"]
order = random.Random(0).sample(range(len(rows)), min(reads, len(rows)))
def seconds_a_row(rows):
    start = time.perf_counter()
    for index in order:
        rows[index]
    return (time.perf_counter() - start) / len(order)
bare, pictures = seconds_a_row(rows.remove_columns("image")), seconds_a_row(rows)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({"records": data.report.records_out, "pictures": data.report.images["found"],
    "build_s": built, "again_s": again, "peak_gib": peak, "row_ms": bare * 1e3,
    "row_with_picture_ms": pictures * 1e3}))
"""


def jpeg(number: int, base: bytes) -> bytes:
    """Returns a distinct JPEG file: the same pixels with another comment."""
    comment = f"{number:012d}".encode()
    return base[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + base[2:]


def record(number: int, draw: random.Random) -> dict[str, object]:
    mention = f"mention{number}"
    before = " ".join(draw.choices(("the", "river", "met", "Ada", "in", "spring"), k=20))
    start = len(before) + 1
    return {
        "id": f"r{number:07d}",
        "text": f"{before} {mention} and more",
        "spans": [[start, start + len(mention)]],
        "label": draw.choice(LABELS),
    }


def write(form: str, folder: Path, number: int, base: bytes) -> tuple[Path, str]:
    """Writes records with images in one of the formats; returns the file and the image folder."""
    draw = random.Random(0)
    if form == "parquet":
        path, writer = folder / "records.parquet", None
        for start in range(0, number, 1000):
            rows = [
                record(n, draw) | {"image": {"bytes": jpeg(n, base), "path": None}}
                for n in range(start, min(start + 1000, number))
            ]
            table = pa.Table.from_pylist(rows)
            writer = writer or parquet.ParquetWriter(path, table.schema)
            writer.write_table(table.cast(writer.schema))
        writer.close()
        return path, ""
    images = folder / "pictures"
    path = folder / "records.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for n in range(number):
            name = f"{n // 1000:04d}/{n}.jpg"
            image = images / name
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes(jpeg(n, base))
            file.write(json.dumps(record(n, draw) | {"image": name}) + "\n")
    return path, str(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000, help="number of records")
    parser.add_argument("--side", type=int, default=224, help="side of each image in pixels")
    parser.add_argument("--reads", type=int, default=1000, help="number of timed random reads")
    parser.add_argument("--forms", nargs="+", default=["jsonl", "parquet"], help="formats to build")
    arguments = parser.parse_args()
    stream = io.BytesIO()
    Image.effect_noise((arguments.side, arguments.side), 40).convert("RGB").save(stream, "JPEG")
    print(f"{arguments.records:,} records, each with an image of {len(stream.getvalue()):,} bytes")
    for form in arguments.forms:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            path, images = write(form, Path(folder), arguments.records, stream.getvalue())
            made = time.perf_counter() - start
            command = [sys.executable, "-c", BUILD, str(path), images, f"{folder}/cache"]
            done = subprocess.run(
                [*command, str(arguments.reads)], check=True, stdout=subprocess.PIPE
            )
            print(f"{form}: written in {made:.0f} s; {done.stdout.decode().strip()}")


if __name__ == "__main__":
    main()

"""Streams of inputs, threads that open pictures, processes that share the work."""

import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from test_pipeline import RECORDS, TEXTS, close
from tiny_world import LABELS, tiny_picture, tiny_pipeline, tiny_records

from modeling_hmgrl.pipeline_hmgrl import LOOKAHEAD


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_generator_is_read_as_it_is_answered(batch_size, workers):
    pipe, taken = tiny_pipeline(seen_labels=LABELS), []

    def generate():
        for index in range(100):
            taken.append(index)
            yield RECORDS[index % 4]

    stream = pipe(generate(), batch_size=batch_size, num_workers=workers)
    assert taken == []
    for answered in range(1, 21):
        next(stream)
        batch = -(-answered // batch_size) * batch_size  # with the rest of its batch
        # threads open one batch more, and what is at hand meanwhile
        assert len(taken) <= batch + (batch_size + 1 if workers else 0)
    stream.close()


def test_an_endless_generator_is_answered():
    pipe = tiny_pipeline(seen_labels=LABELS)

    def generate():
        while True:
            yield RECORDS[0]

    stream = pipe(generate(), batch_size=2)
    assert [next(stream)["label"] for _ in range(5)] == [pipe(RECORDS[0])["label"]] * 5


def test_records_of_a_dataset_are_answered_as_they_are():
    pipe = tiny_pipeline(seen_labels=LABELS)
    data = tiny_records(8)["test"]
    found = pipe(data, batch_size=3)
    assert not isinstance(found, list)
    found = list(found)
    assert len(found) == len(data)
    for row, result in zip(data, found, strict=True):
        close(pipe(row["text"], spans=row["spans"], image=row["image"]), result)
    undecoded = data.cast_column("image", data.features["image"].__class__(decode=False))
    for a, b in zip(pipe(undecoded), found, strict=True):
        close(a, b)


def test_rows_of_a_dataset_are_read_a_window_at_a_time():
    pipe = tiny_pipeline(seen_labels=LABELS)

    class Counted(Dataset):
        taken = 0

        def __iter__(self):
            for row in super().__iter__():
                Counted.taken += 1
                yield row

    rows = [{"text": TEXTS[0], "mention": "fox"}] * 100
    data = Counted(Dataset.from_list(rows).data)
    stream = pipe(data, batch_size=2)
    next(stream)
    assert Counted.taken == 2 * LOOKAHEAD
    assert len(list(stream)) == 99


@pytest.mark.parametrize("kind", ["list", "stream"])
def test_threads_give_the_same_in_the_same_order(kind):
    pipe = tiny_pipeline(seen_labels=LABELS)
    files = []
    for image in (tiny_picture("animal"), tiny_picture("plant"), tiny_picture("tool")):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        files.append(buffer.getvalue())
    records = [
        {"text": f"{'near ' * (i % 5)}the fox", "mention": "fox", "image": files[i % 3]}
        for i in range(50)
    ]
    given = records if kind == "list" else (record for record in records)
    expected = pipe(records, batch_size=4)
    before = threading.active_count()
    found = list(pipe(given, batch_size=4, num_workers=3))
    assert threading.active_count() == before
    for a, b in zip(expected, found, strict=True):
        close(a, b)


def test_a_stream_that_is_closed_early_leaves_no_thread():
    pipe = tiny_pipeline(seen_labels=LABELS)
    before = threading.active_count()
    stream = pipe((RECORDS[0] for _ in range(10**6)), batch_size=2, num_workers=3)
    next(stream)
    assert threading.active_count() > before
    stream.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("where", ["input", "generator", "model"])
def test_an_error_leaves_no_thread(where, monkeypatch):
    pipe = tiny_pipeline(seen_labels=LABELS)
    before = threading.active_count()

    def generate():
        for _ in range(10):
            yield RECORDS[0]
        if where == "generator":
            raise KeyError("gone")
        yield {"text": 3} if where == "input" else RECORDS[0]

    def fail(*_, **__):
        raise KeyError("gone")

    if where == "model":
        monkeypatch.setattr(pipe.model, "encode", fail)
    stream = pipe(generate(), batch_size=4, num_workers=2)
    # the error is kept, and with it the frames in which the stream stood
    with pytest.raises((ValueError, KeyError)) as kept:
        list(stream)
    assert threading.active_count() == before
    assert kept.value is not None


def test_threads_may_share_a_pipeline():
    pipe = tiny_pipeline(seen_labels=LABELS)
    expected = {
        i: pipe(RECORDS[0], labels=[f"old {i}", f"near {i}"], top_k=None) for i in range(40)
    }
    pipe.label_cache.clear()
    wrong = []

    def work(part):
        for i in part:
            found = pipe(RECORDS[0], labels=[f"old {i}", f"near {i}"], top_k=None)
            if not np.allclose(found["scores"], expected[i]["scores"], rtol=1e-4, atol=1e-5):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(range(k, 40, 4),)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(pipe.label_cache) == 80


# Processes

PROCESSES = """
import json, sys
import torch
from tiny_world import LABELS, tiny_pipeline, tiny_records
torch.set_num_threads(1)
pipe = tiny_pipeline(seen_labels=LABELS)
data = tiny_records(10)["test"]
for name, inputs in (("dataset", data), ("list", list(data)[:3]), ("none", [])):
    found = pipe.across_processes(inputs, batch_size=2, top_k=3)
    with open(f"{sys.argv[1]}/{name}-{torch.distributed.get_rank()}.json", "w") as file:
        json.dump(found, file)
torch.distributed.destroy_process_group()
"""


def test_two_processes_give_what_one_gives(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(PROCESSES, encoding="utf-8")
    tests = Path(__file__).parents[1] / "helpers"
    environment = {"PYTHONPATH": f"{tests}:{tests.parent}", "OMP_NUM_THREADS": "1"}
    environment |= {"ACCELERATE_USE_CPU": "true"}
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    (tmp_path / "found").mkdir()
    done = subprocess.run(
        [*start, str(script), str(tmp_path / "found")],
        env=os.environ | environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((tmp_path / "found").iterdir())) == 6
    data = tiny_records(10)["test"]
    pipe = tiny_pipeline(seen_labels=LABELS)
    for name, inputs in (("dataset", list(data)), ("list", list(data)[:3]), ("none", [])):
        expected = pipe(inputs, top_k=3)
        several = [pipe.across_processes(inputs, batch_size=2, top_k=3)]
        for rank in (0, 1):
            file = tmp_path / "found" / f"{name}-{rank}.json"
            several.append(json.loads(file.read_text()))
        for found in several:
            assert len(found) == len(expected)
            for a, b in zip(expected, found, strict=True):
                close(a, b)


def test_processes_do_not_hold_the_images_of_a_dataset():
    pipe, held = tiny_pipeline(seen_labels=LABELS), []

    class Data:
        taken = 0

        def __len__(self):
            return 40

        def __getitem__(self, index):
            Data.taken += 1
            return RECORDS[index % 4]

    predict = pipe.predict_batch

    def watched(queries, *rest):
        held.append(Data.taken)
        return predict(queries, *rest)

    pipe.predict_batch = watched
    assert len(pipe.across_processes(Data(), batch_size=1)) == 40
    assert held == [LOOKAHEAD * (k + 1) for k in range(10)]


def test_a_data_set_does_not_decode_or_fetch_images_by_itself(monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("decoded by the data set")

    monkeypatch.setattr("socket.socket.connect", forbidden)
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", forbidden)
    buffer = io.BytesIO()
    tiny_picture(LABELS[0]).save(buffer, "PNG")
    images = [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nquit\n",
        b"junk",
        buffer.getvalue(),
    ]
    rows = [
        {"text": "a fox", "mention": "fox", "image": {"bytes": content, "path": None}}
        for content in images
    ]
    rows.append(rows[0] | {"image": {"bytes": None, "path": "http://127.0.0.1:1/a.png"}})
    features = Features(
        {"text": Value("string"), "mention": Value("string"), "image": ImageFeature()}
    )
    data = Dataset.from_list(rows, features=features)
    pipe = tiny_pipeline()
    found = list(pipe(data, labels=["animal", "tool"], on_error="skip"))
    assert ["error" in one for one in found] == [True, True, False, True]
    assert "URL" in found[3]["error"]
    assert found[2] == pipe(rows[2], labels=["animal", "tool"])

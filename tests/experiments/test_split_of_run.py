"""What predicts with a trained run uses the split of the run, whatever the run's own seed."""

import importlib.util
import io
import json
from pathlib import Path

import pytest
import quickstart
from PIL import Image

from dataset_scripts import load_gzs

ROOT = Path(__file__).parents[2]
SEED, SPLIT_SEED = 0, 2


@pytest.fixture(scope="module")
def data():
    return load_gzs("sample", seed=SPLIT_SEED, group_by="text")


@pytest.fixture
def run(data, tmp_path):
    """A folder with the report of a run whose seed is not that of its split."""
    report = {
        "seed": SEED,
        "data": data.report.to_dict(),
        "labels": {
            "seen": list(data.partition.seen),
            "test_unseen": list(data.partition.test_unseen),
        },
    }
    (tmp_path / "report.json").write_text(json.dumps(report))
    return str(tmp_path)


def test_the_onnx_benchmark_scores_the_test_split_of_the_run(data, run):
    place = ROOT / "benchmarks" / "onnx_inference.py"
    spec = importlib.util.spec_from_file_location("onnx_inference", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    inputs, labels, candidates = module.read_samples(run, images=False)
    test = data.splits["test"]
    names = test.features["label"].names
    assert [row["text"] for row in inputs] == list(test["text"])
    assert labels == [names[label] for label in test["label"]]
    assert set(labels) <= set(candidates)
    other = load_gzs("sample", seed=SEED).splits["test"]
    assert list(other["text"]) != list(test["text"])


def test_the_quick_start_takes_images_of_the_split_of_the_run(data, run, monkeypatch, capsys):
    asked = []

    def pipe(text, **options):
        asked.append(options)
        return {"labels": ["bird"], "probabilities": [1.0], "seen": [False]}

    monkeypatch.setattr(quickstart, "pipeline", lambda *_, **__: pipe)
    quickstart.predict(run)
    printed = capsys.readouterr().out
    names = data.splits["test"].features["label"].names
    for (_, _, labels, label), options in zip(quickstart.INPUTS, asked, strict=True):
        if labels is None:
            groups = data.partition
            assert options["labels"] == [*groups.seen, *groups.test_unseen]
        if label is None:
            assert options["image"] is None
            continue
        split = "validation" if label in data.partition.validation_unseen else "test"
        assert f"with a {split} image of {label!r}" in printed
        row = list(data.splits[split]["label"]).index(names.index(label))
        expected = data.splits[split][row]["image"].tobytes()
        assert Image.open(io.BytesIO(options["image"])).tobytes() == expected


def test_a_label_without_samples_is_named(data):
    none = {name: rows.select([]) for name, rows in data.splits.items()}
    with pytest.raises(ValueError, match="bird: expected samples in the test or validation split"):
        quickstart.image_of(none, "bird")

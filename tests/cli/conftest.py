"""Fixtures of the tests of `hmgrl predict`."""

import pytest
from cli_world import write_data
from predict_world import BATCH
from tiny_world import SEEN, TEST_UNSEEN, VALIDATION_UNSEEN, tiny_model, tiny_processor

from hmgrl_cli.cli import main


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Folder with a model, data of 44 records and pictures."""
    folder = tmp_path_factory.mktemp("predict")
    model = tiny_model(
        seen_labels=SEEN, generator_labels=[*VALIDATION_UNSEEN, *TEST_UNSEEN], calibration_gamma=0.5
    )
    model.save_pretrained(folder / "model")
    tiny_processor().save_pretrained(folder / "model")
    write_data(folder / "data", 44)
    return folder


@pytest.fixture
def data(world):
    return world / "data" / "records.jsonl"


@pytest.fixture
def predict(world, monkeypatch):
    """Runs the command; returns its code. `stdin` is what comes down the pipe."""

    def run(*argv, stdin=None, expected=0):
        if stdin is not None:
            monkeypatch.setattr("sys.stdin", stdin)
        argv = ["--model", world / "model", "--batch-size", BATCH, "--no-progress", *argv]
        assert main(["predict", *map(str, argv)]) == expected

    return run

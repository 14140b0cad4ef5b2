"""The fuzz tests write many small files, for which progress bars are of no use."""

import datasets
import pytest


@pytest.fixture(autouse=True)
def without_progress_bars():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()

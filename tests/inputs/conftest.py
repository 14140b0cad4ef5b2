"""The pipeline that the tests of hostile inputs call."""

import pytest
from tiny_world import LABELS, tiny_pipeline


@pytest.fixture(scope="session")
def pipe():
    return tiny_pipeline(seen_labels=LABELS[:3], generator_labels=LABELS[3:], calibration_gamma=0.2)

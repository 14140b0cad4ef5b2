"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest
import torch
from tiny_world import save_backbones

# Threads only wait for each other on tensors as tiny as the tests', and workers of pytest-xdist
# and the processes that tests start share the cores.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def real_data():
    """Folder of the real data sets, which are not part of this repository."""
    given = os.environ.get("HMGRL_DATA", "../shared/data")
    folder = Path(__file__).parent.parent / given
    if not folder.is_dir():
        pytest.skip(f"no real data: HMGRL_DATA names {given!r}, which is no folder")
    return folder


@pytest.fixture(scope="session")
def backbones(tmp_path_factory):
    """Folders of a tiny text encoder and a tiny image encoder."""
    return save_backbones(tmp_path_factory.mktemp("backbones"))

"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data():
    """Folder of the real data sets, which are not part of this repository."""
    given = os.environ.get("HMGRL_DATA", "../shared/data")
    folder = Path(__file__).parent.parent / given
    if not folder.is_dir():
        pytest.skip(f"no real data: HMGRL_DATA names {given!r}, which is no folder")
    return folder

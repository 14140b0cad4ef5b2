"""Fixtures of the tests of the model."""

import pytest
from model_variants import VARIANTS


@pytest.fixture(params=VARIANTS, ids=lambda name: name.replace(" ", "-"))
def variant(request):
    return VARIANTS[request.param]

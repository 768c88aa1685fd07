"""What every test of the training of a tokenizer has."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def small_models(one_thread):
    """Models this small are trained with one thread."""

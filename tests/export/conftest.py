"""Fixtures of the tests of exports."""

import pytest

from tests.helpers.tiny_model import build_model, export_tiny_model


@pytest.fixture(scope="session")
def model():
    return build_model()


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """(zip, SavedModel directory) of `model`."""
    return export_tiny_model(tmp_path_factory.mktemp("exported"))

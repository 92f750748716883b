"""Fixtures of the tests of competitions."""

import pytest

from tests.helpers.tiny_model import export_tiny_model


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """(zip, SavedModel directory) of a tiny model."""
    return export_tiny_model(tmp_path_factory.mktemp("exported"))

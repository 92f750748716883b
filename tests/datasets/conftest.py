"""One small data set that becomes several shards."""

import pytest

from tests.helpers.layouts import write_uned_layout
from universal_embedding.datasets import shards


@pytest.fixture
def root(tmp_path):
    """12 images of one split, which become 4 shards."""
    rows = [(f"toys/{i}.jpg", i % 5) for i in range(12)]
    return write_uned_layout(tmp_path / "small", "toys", {"train": rows})


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(shards, "IMAGES_PER_SHARD", 3)

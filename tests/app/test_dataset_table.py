"""A table of all domains of a prepared data set: written by `embed`, read by domain and id."""

import numpy as np
import pytest

from tests.app.test_embedding_parts import BytesModel
from tests.helpers.layouts import write_small_dataset
from universal_embedding.app.embedding_parts import PartsConfig, embed_images
from universal_embedding.app.image_sources import open_source
from universal_embedding.datasets import prepare
from universal_embedding.datasets.embedding_table import EmbeddingTable
from universal_embedding.datasets.records import open_records

pytest.importorskip("pyarrow")


def test_embed_writes_a_table_of_all_domains(tmp_path):
    root = write_small_dataset(tmp_path / "manual")
    for domain in ("toys", "birds"):
        prepare.prepare(prepare.make_builder("small", domain, data_dir=tmp_path / "data"), root)
    source = open_source(str(tmp_path / "data" / "small"), "train")
    assert len(source) == 8 and sorted(set(source.domains)) == ["birds", "toys"]
    config = PartsConfig(str(tmp_path / "table"), images_per_part=3, dtype="float32")
    assert embed_images(BytesModel, "model", source, config) == (8, 0)
    table = EmbeddingTable(tmp_path / "table")
    for domain in ("toys", "birds"):
        records = open_records(tmp_path / "data", "small", domain, "train")
        expected = BytesModel().encode([records.read([i])[0] for i in range(len(records))])
        np.testing.assert_allclose(table(records), expected, atol=1e-6)

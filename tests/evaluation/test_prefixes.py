"""Prefixes of embeddings as sources of an evaluation."""

import numpy as np
import pytest

from tests.helpers.fake_records import FakeRecords
from universal_embedding.errors import UserError
from universal_embedding.evaluation.embed import EmbeddingSource
from universal_embedding.evaluation.prefixes import add_prefixes


@pytest.fixture
def source():
    calls = []

    def embed(records):
        calls.append(records.domain)
        return np.random.default_rng(len(records)).normal(size=(len(records), 6)).astype("f4")

    return EmbeddingSource("model", embed), calls


def test_prefixes_are_unit_rows_and_images_are_embedded_once(source):
    whole, calls = source
    records = [FakeRecords("a", [1, 2, 3]), FakeRecords("a", [1, 2], split="val")]
    sources = add_prefixes(whole, [2, 5])
    assert [s.name for s in sources] == ["model", "model, 2 dimensions", "model, 5 dimensions"]
    rows = [[s.embed(r) for r in records] for s in sources]
    assert calls == ["a", "a"]
    for prefix, values in ((2, rows[1]), (5, rows[2])):
        for expected, actual in zip(rows[0], values, strict=True):
            expected = expected[:, :prefix]
            norms = np.linalg.norm(expected, axis=1, keepdims=True)
            np.testing.assert_allclose(actual, expected / norms, rtol=1e-6)


def test_a_prefix_beyond_the_embedding_is_one_line(source):
    _, prefix = add_prefixes(source[0], [7])
    with pytest.raises(UserError, match="--dimension=7 is not a prefix of the 6 dimensions"):
        prefix.embed(FakeRecords("a", [1]))

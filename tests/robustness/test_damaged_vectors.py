"""Damaged files of vectors, and damaged indexes of them: one line each."""

import random

import numpy as np
import pytest

from tests.app.test_vector_index import CONFIG, unit_rows, write_parts
from tests.helpers.damage import damage_each
from universal_embedding.app.vector_files import read_vectors
from universal_embedding.app.vector_index import VectorIndex
from universal_embedding.app.vector_index_build import build_vector_index

SOME, MANY = 3, pytest.param(60, marks=pytest.mark.robustness)


@pytest.mark.parametrize("times", [SOME, MANY])
def test_damaged_index_of_embeddings_is_one_line(times, tmp_path):
    build_vector_index(write_parts(tmp_path / "p", unit_rows(20), [20]), tmp_path / "i", CONFIG)

    def read():
        index = VectorIndex.load(tmp_path / "i")
        index.search(3)

    read()
    files = [p for p in sorted((tmp_path / "i").rglob("*")) if p.is_file() and p.name != ".lock"]
    tried, refused = damage_each(files, read, random.Random(5), times)
    print(f"index: {tried} tried, {refused} named")
    assert len(files) >= 12 and refused > 0.8 * tried


@pytest.mark.parametrize("times", [SOME, MANY])
def test_damaged_npz_of_vectors_is_one_line(times, tmp_path):
    names = np.array([f"n{i}" for i in range(9)])
    np.savez(tmp_path / "v.npz", embedding=unit_rows(9), name=names, label=names)

    def read():
        list(read_vectors(tmp_path / "v.npz"))

    tried, refused = damage_each([tmp_path / "v.npz"], read, random.Random(6), times)
    assert refused > 0.3 * tried

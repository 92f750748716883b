"""Tables of embeddings, by domain and image id, in each of their formats."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.helpers.fake_records import make_domains
from universal_embedding.datasets.embedding_table import (
    EmbeddingTable,
    fingerprint_files,
    is_table,
    write_npz,
)
from universal_embedding.errors import UserError


@pytest.fixture(scope="module")
def records():
    return make_domains({"a": 7, "b": 5})


@pytest.fixture(scope="module")
def rows(records):
    """`[N, 3]` float32 by domain."""
    rng = np.random.default_rng(0)
    return {d: rng.normal(size=(len(r), 3)).astype(np.float32) for d, r in records.items()}


def write_part(path, keys, rows, id_column="image_id", **columns):
    """A .npy and a .parquet of `(domain, image id)` keys."""
    np.save(path.with_suffix(".npy"), rows)
    columns[id_column] = [image_id for _, image_id in keys]
    if columns.pop("with_domain", True):
        columns["domain"] = [domain for domain, _ in keys]
    pa.parquet.write_table(pa.table(columns), path.with_suffix(".parquet"))
    return path.with_suffix(".npy")


@pytest.fixture
def keys(records):
    return [(d, str(i)) for d, r in records.items() for i in r.image_ids]


def write_table(folder, form, records, rows, keys):
    """A table of all rows in another order than the records'."""
    stacked = np.concatenate(list(rows.values()))
    order = np.random.default_rng(1).permutation(len(keys))
    keys, stacked = [keys[i] for i in order], stacked[order]
    if form == "npz":
        write_npz(folder / "t.npz", [(records[d], rows[d]) for d in records])
        return folder / "t.npz"
    if form == "npy":
        return write_part(folder / "t", keys, stacked)
    (folder / "parts").mkdir()
    for n, part in enumerate(np.array_split(np.arange(len(keys)), 3)):
        own = [keys[i] for i in part]
        write_part(folder / "parts" / f"part-{n:05d}", own, stacked[part], id_column="name")
    return folder / "parts"


@pytest.mark.parametrize("form", ["npz", "npy", "parts"])
def test_rows_are_those_of_the_records(tmp_path, form, records, rows, keys):
    path = write_table(tmp_path, form, records, rows, keys)
    assert is_table(path) and not is_table(tmp_path / "nothing")
    table = EmbeddingTable(path)
    assert table.dim == 3 and table.has_domains
    for domain, domain_records in records.items():
        np.testing.assert_array_equal(table(domain_records), rows[domain])
        (rest,) = table.embed_blocks(domain_records, start=2)
        np.testing.assert_array_equal(rest, rows[domain][2:])


def test_missing_records_are_counted_and_the_first_is_named(tmp_path, records, rows, keys):
    stacked = np.concatenate(list(rows.values()))
    path = write_part(tmp_path / "t", keys[2:], stacked[2:])
    with pytest.raises(UserError, match=rf"no row for 2 of the 7 images of a .*{keys[0][1]}"):
        EmbeddingTable(path)(records["a"])
    errors = [None, "cannot decode", *[None] * (len(keys) - 2)]
    path = write_part(tmp_path / "u", keys, stacked, error=errors)
    with pytest.raises(UserError, match=rf"no row for 1 of the 7 images of a .*{keys[1][1]}"):
        EmbeddingTable(path)(records["a"])


def test_table_without_domains_is_of_any_one(tmp_path, records, rows, keys):
    path = write_part(tmp_path / "t", keys[:7], rows["a"], with_domain=False)
    table = EmbeddingTable(path)
    assert not table.has_domains
    np.testing.assert_array_equal(table(records["a"]), rows["a"])


@pytest.mark.parametrize("damage", ["repeated", "rows", "columns", "no parquet", "sizes"])
def test_other_files_are_refused_in_one_line(tmp_path, damage, rows, keys):
    stacked = np.concatenate(list(rows.values()))
    if damage == "repeated":
        path, message = write_part(tmp_path / "t", [*keys[:-1], keys[0]], stacked), "more than one"
    elif damage == "rows":
        path, message = write_part(tmp_path / "t", keys[1:], stacked), r"shape \(12, 3\).*11 rows"
    elif damage == "columns":
        path = write_part(tmp_path / "t", keys, stacked, id_column="file")
        message = "without image_id"
    elif damage == "sizes":
        (tmp_path / "t").mkdir()
        write_part(tmp_path / "t" / "0", keys[:5], stacked[:5])
        write_part(tmp_path / "t" / "1", keys[5:], stacked[5:, :2])
        path, message = tmp_path / "t", r"\[2, 3\] dimensions"
    else:
        path, message = write_part(tmp_path / "t", keys, stacked), "does not exist"
        path.with_suffix(".parquet").unlink()
    with pytest.raises(UserError, match=message) as raised:
        EmbeddingTable(path)
    assert "\n" not in str(raised.value)


def test_fingerprint_changes_with_a_file(tmp_path, rows, keys):
    path = write_part(tmp_path / "t", keys[:7], rows["a"])
    before = fingerprint_files(path)
    assert before and fingerprint_files(path) == before
    write_part(tmp_path / "t", keys[:6], rows["a"][:6])
    assert fingerprint_files(path) != before
    assert fingerprint_files(tmp_path / "absent.npz") == ""

"""Sharded search against one search of all rows."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.random_domains import continuous, grid
from universal_embedding.errors import UserError
from universal_embedding.search.exact import BlockedTopK, BruteForce
from universal_embedding.search.index_rows import RowCodec
from universal_embedding.search.neighbors import recall
from universal_embedding.search.scann_index import ScannIndex
from universal_embedding.search.sharded import ShardedIndex


def make_exact(dtype, codec, search_class=BruteForce):
    search = search_class()
    search.dtype, search.codec = dtype, codec
    return search


@given(
    st.sampled_from([BruteForce, BlockedTopK]),
    st.sampled_from([grid, continuous]),
    st.sampled_from(["float32", "bfloat16", "float16", "int8"]),
    st.integers(1, 60),
    st.integers(1, 25),
    st.integers(1, 70),
    st.integers(0, 2**32 - 1),
)
def test_exact_shards_equal_one_exact_search(search_class, rows, dtype, size, step, k, seed):
    rng = np.random.default_rng(seed)
    index, queries = rows(rng, size, 3), rows(rng, 6, 3)  # a grid has many equal rows
    exclude = rng.integers(-1, size, 6)
    codec = RowCodec.fit(dtype, index)
    one = make_exact(dtype, codec, search_class)
    sharded = ShardedIndex(lambda: make_exact(dtype, codec, search_class), step)
    one.index(index)
    sharded.index(index)
    assert len(sharded.shards) == -(-size // step) and sharded.is_exact
    for result, expected in zip(
        sharded.query(queries, k, exclude), one.query(queries, k, exclude), strict=True
    ):
        np.testing.assert_array_equal(result, expected)
    ids = rng.integers(0, size, 9)
    np.testing.assert_array_equal(sharded.rows(ids), one.rows(ids))
    np.testing.assert_allclose(sharded.rows(ids), index[ids], atol=1.1 / 127 * abs(index).max())
    shard, place = sharded.locate(int(ids[0]))
    np.testing.assert_array_equal(sharded.shards[shard].rows(np.array([place])), one.rows(ids[:1]))


def test_changed_shards_equal_one_changed_search():
    rng = np.random.default_rng(0)
    rows, queries = grid(rng, 40, 2), grid(rng, 5, 2)
    one, sharded = BruteForce(), ShardedIndex(BruteForce, 7)
    one.index(rows[:20])
    sharded.index(rows[:20])
    for change in (
        lambda search: search.remove([0, 6, 7, 19]),
        lambda search: search.add(rows[20:36]).tolist(),
        lambda search: search.remove(np.arange(8, 16)),
        lambda search: search.add(rows[36:]).tolist(),
    ):
        assert change(one) == change(sharded)
        assert (len(one), one.next_id) == (len(sharded), sharded.next_id)
        for result, expected in zip(one.query(queries, 9), sharded.query(queries, 9), strict=True):
            np.testing.assert_array_equal(result, expected)
    assert [shard.next_id for shard in sharded.shards] == [7, 7, 7, 7, 7, 5]
    for ids in ([6], [40], [-1], [1, 1]):
        before = len(sharded)
        with pytest.raises(UserError, match=r"has no row|named twice"):
            sharded.remove(ids)
        assert len(sharded) == before
    np.testing.assert_array_equal(
        sharded.contains(np.arange(40)), ~np.isin(np.arange(40), [0, 6, 7, 19, *range(8, 16)])
    )


@pytest.fixture(scope="module")
def clustered():
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((5000, 32))
    rows = centers[rng.integers(0, 5000, 61_000)] + 0.5 * rng.standard_normal((61_000, 32))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def blocks_of(rows, step, removed=()):
    return [
        lambda start=start: (
            rows[start : start + step],
            np.array([r - start for r in removed if start <= r < start + step], np.int64),
        )
        for start in range(0, len(rows), step)
    ]


def test_approximate_shards_on_disk_reach_the_recall(clustered, tmp_path):
    queries, rows = clustered[:1000], clustered[1000:]
    codec = RowCodec.fit("int8", rows)

    def make_shard():
        search = ScannIndex(0.97, "int8", on_disk=True)
        search.codec = codec
        return search

    for _ in ShardedIndex.build(tmp_path, blocks_of(rows, 30_000, [5, 30_001]), make_shard):
        pass
    sharded = ShardedIndex.load(tmp_path)
    assert len(sharded.shards) == 2 and not sharded.is_exact and len(sharded) == 59_998
    assert len({shard.config.leaves for shard in sharded.shards}) == 1
    for shard in sorted(tmp_path.glob("shard-*")):  # codes alone: no copy of the rows
        kept = sum(path.stat().st_size for path in (shard / "scann").iterdir())
        assert kept < 0.5 * rows[:30_000].nbytes
    exact = BruteForce()
    exact.index(rows)
    exact.remove([5, 30_001])
    truth, _ = exact.query(queries, 5)
    ids, scores = sharded.query(queries, 5)
    assert recall(ids, truth) > 0.95
    assert (np.diff(scores, axis=1) <= 0).all() and not np.isin(ids, [5, 30_001]).any()
    excluded, _ = sharded.query(queries, 5, ids[:, 0])
    assert not (excluded == ids[:, :1]).any()
    np.testing.assert_array_equal(excluded[:, :4], ids[:, 1:])
    added = sharded.add(queries[:20])
    assert added.tolist() == list(range(60_000, 60_020))
    assert (sharded.query(queries[:20], 1)[0][:, 0] == added).mean() > 0.9


def test_interrupted_build_resumes_at_the_finished_shards(tmp_path):
    rows = continuous(np.random.default_rng(0), 40, 4)
    built = []

    class Interrupted(BruteForce):
        def save(self, folder):
            if len(built) == 2:
                raise KeyboardInterrupt
            built.append(folder.name)
            super().save(folder)

    Interrupted.__name__ = "BruteForce"
    with pytest.raises(KeyboardInterrupt):
        list(ShardedIndex.build(tmp_path, blocks_of(rows, 10), Interrupted))
    with pytest.raises(UserError, match="holds no shards"):
        ShardedIndex.load(tmp_path)
    resumed = [
        number
        for number, shard in ShardedIndex.build(tmp_path, blocks_of(rows, 10), BruteForce)
        if shard is not None
    ]
    assert built == ["shard-00000", "shard-00001"] and resumed == [2, 3]
    whole = ShardedIndex(BruteForce, 10)
    whole.index(rows)
    loaded = ShardedIndex.load(tmp_path)
    for result, expected in zip(loaded.query(rows, 6), whole.query(rows, 6), strict=True):
        np.testing.assert_array_equal(result, expected)
    whole.save(tmp_path / "saved")
    saved = ShardedIndex.load(tmp_path / "saved")
    np.testing.assert_array_equal(saved.query(rows, 6)[0], whole.query(rows, 6)[0])


def damage_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda shard: damage_byte(shard / "rows.npy"),
        lambda shard: damage_byte(shard / "positions.npy"),
        lambda shard: (shard / "rows.npy").write_bytes(b""),
        lambda shard: (shard / "rows.npy").unlink(),
        lambda shard: (shard / "index.json").write_text("{"),
        lambda shard: (shard / "index.json").write_text("[]"),
        lambda shard: (shard / "index.json").unlink(),
        lambda shard: shard.rename(shard.with_name("gone")),
        lambda shard: (shard.parent / "shards.json").write_text(
            json.dumps({"format": 1, "sizes": [10, 9]})
        ),
    ],
)
def test_damaged_shard_is_named_in_one_line(damage, tmp_path):
    sharded = ShardedIndex(BruteForce, 10)
    sharded.index(continuous(np.random.default_rng(0), 20, 4))
    sharded.save(tmp_path)
    damage(tmp_path / "shard-00001")
    with pytest.raises(UserError, match=r"shard-00001.*build it again") as info:
        ShardedIndex.load(tmp_path)
    assert "\n" not in str(info.value)


def test_shards_of_another_format_raise_user_error(tmp_path):
    (tmp_path / "shards.json").write_text('{"format": 0, "sizes": []}')
    with pytest.raises(UserError, match="format 0, expected 1"):
        ShardedIndex.load(tmp_path)

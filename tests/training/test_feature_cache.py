"""The feature cache: a half-finished domain resumes, and any damage to it is computed again."""

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.fake_records import make_domains
from universal_embedding.errors import UserError
from universal_embedding.files import as_path
from universal_embedding.models.inference import RecordEmbedder
from universal_embedding.training import data
from universal_embedding.training.config import stage
from universal_embedding.training.feature_cache import FeatureCache
from universal_embedding.training.strategy import mirrored

SIZES = {"boats": 21, "coins": 9}


@pytest.fixture(scope="module")
def sets():
    return make_domains(SIZES)


class CountingEmbedder(RecordEmbedder):
    """Counts the rows of each call, and may be killed before one of them."""

    def __init__(self, strategy=None, batch_size=2):
        strategy = strategy or tf.distribute.get_strategy()
        super().__init__(channel_means, strategy, image_size=8, batch_size=batch_size)
        self.num_rows, self.kill_at = 0, None

    def embed_blocks(self, records, start=0):
        for rows in super().embed_blocks(records, start):
            if self.kill_at is not None and self.num_rows >= self.kill_at:
                raise KeyboardInterrupt
            self.num_rows += len(rows)
            yield rows


def channel_means(images, training=False):
    return tf.reduce_mean(images, axis=(1, 2))


def compute(folder, sets, embedder=None, key="model"):
    """Rows by domain, and how many images were embedded for them."""
    embedder = embedder or CountingEmbedder()
    cache = FeatureCache(folder, tf.distribute.get_strategy())
    missing = cache.missing(sets, key)
    cache.compute({d: sets[d] for d in missing}, key, embedder, "x", show_progress=False)
    return {d: np.array(rows) for d, rows in cache.read(sets).items()}, embedder.num_rows


def interrupt(folder, sets, num_rows, key="model"):
    embedder = CountingEmbedder()
    embedder.kill_at = num_rows
    with pytest.raises(KeyboardInterrupt):
        compute(folder, sets, embedder, key)
    return embedder.num_rows


def test_interrupted_domain_resumes_after_its_last_row(sets, tmp_path):
    whole, total = compute(tmp_path / "whole", sets)
    assert total == sum(SIZES.values())
    num_done = interrupt(tmp_path / "half", sets, 5)
    assert 0 < num_done < SIZES["boats"] and not list((tmp_path / "half").glob("*.npy"))
    half, num_rows = compute(tmp_path / "half", sets)
    assert num_rows == total - num_done
    assert {path.suffix for path in (tmp_path / "half").iterdir()} == {".npy", ".key"}
    for domain in SIZES:
        np.testing.assert_array_equal(half[domain], whole[domain])
        assert np.load(tmp_path / "half" / f"{domain}.npy").dtype == np.float32
    assert compute(tmp_path / "half", sets)[1] == 0


@pytest.mark.parametrize("cut", [1, 5, 60, 100, 1000])
def test_killed_write_leaves_whole_rows_to_resume_from(sets, tmp_path, cut):
    whole, total = compute(tmp_path / "whole", sets)
    interrupt(tmp_path / "half", sets, 12)
    (partial,) = (tmp_path / "half").glob(".boats.*.partial")
    content = partial.read_bytes()
    partial.write_bytes(content[: max(len(content) - cut, 0)])
    half, num_rows = compute(tmp_path / "half", sets)
    np.testing.assert_array_equal(half["boats"], whole["boats"])
    assert num_rows == total if cut == 1000 else num_rows < total


def test_rows_of_another_model_are_not_continued(sets, tmp_path):
    interrupt(tmp_path, sets, 5, key="other")
    _, num_rows = compute(tmp_path, sets)
    assert num_rows == sum(SIZES.values())
    assert not list(tmp_path.glob(".*"))
    assert compute(tmp_path, sets, key="third")[1] == num_rows


def test_domain_half_finished_on_one_device_is_finished_on_two(sets, tmp_path):
    whole, total = compute(tmp_path / "whole", sets)
    num_done = interrupt(tmp_path / "half", sets, 5)
    half, num_rows = compute(tmp_path / "half", sets, CountingEmbedder(mirrored(2), batch_size=3))
    assert num_rows == total - num_done
    for domain in SIZES:
        np.testing.assert_allclose(half[domain], whole[domain], rtol=1e-6)


def test_hosts_that_share_no_disk_cannot_share_features(make_experiment, config, monkeypatch):
    config.stages = (stage(steps=2, input="features", head_lr=1e-2),)
    experiment = make_experiment()
    experiment.workdir = as_path("gs://bucket/run")
    monkeypatch.setattr(data, "num_hosts_and_id", lambda _: (2, 0))
    with pytest.raises(UserError, match=r"gs://bucket/run is not a disk, .*share the features"):
        data.stage_batches(experiment, experiment.stages[0], 0)

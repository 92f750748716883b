import numpy as np
import pytest

from universal_embedding.retrieval import bootstrap


def test_spread_of_resampled_means_is_the_standard_error():
    values = np.random.default_rng(0).random(400)
    means = bootstrap.resampled_means(values, 20_000)
    assert means.mean() == pytest.approx(values.mean(), abs=5e-4)
    assert means.std() == pytest.approx(values.std() / np.sqrt(400), rel=0.02)


def test_interval_equals_plain_resampling():
    values = np.random.default_rng(1).integers(0, 2, 150).astype(float)
    rng = np.random.default_rng(2)
    plain = rng.choice(values, (20_000, 150)).mean(1)
    low, high = bootstrap.interval(bootstrap.resampled_means(values, 20_000))
    assert [low, high] == pytest.approx(np.percentile(plain, [2.5, 97.5]), abs=0.008)


def test_mean_over_domains_is_narrower_than_its_domains():
    rng = np.random.default_rng(3)
    domains = [rng.random(100) for _ in range(9)]
    low, high = bootstrap.mean_interval(domains)
    alone = bootstrap.mean_interval(domains[:1])
    assert (high - low) == pytest.approx((alone[1] - alone[0]) / 3, rel=0.2)


def test_interval_covers_the_truth_about_95_times_of_100():
    rng = np.random.default_rng(4)
    hits = 0
    for seed in range(300):
        low, high = bootstrap.interval(bootstrap.resampled_means(rng.random(60) < 0.4, 500, seed))
        hits += low <= 0.4 <= high
    assert 0.9 < hits / 300 < 0.99


def test_same_seed_same_interval():
    values = np.random.default_rng(5).random(30)
    assert bootstrap.mean_interval([values]) == bootstrap.mean_interval([values])

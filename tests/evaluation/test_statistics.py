import numpy as np
import pytest

from universal_embedding.evaluation.statistics import bootstrap_means, ci95, percentile_interval


def test_standard_deviation_of_bootstrap_means_is_the_standard_error():
    values = np.random.default_rng(0).random(400)
    means = bootstrap_means(values, 20_000)
    assert means.mean() == pytest.approx(values.mean(), abs=5e-4)
    assert means.std() == pytest.approx(values.std() / np.sqrt(400), rel=0.02)


def test_interval_equals_that_of_plain_resampling():
    values = np.random.default_rng(1).integers(0, 2, 150).astype(float)
    rng = np.random.default_rng(2)
    plain = rng.choice(values, (20_000, 150)).mean(1)
    low, high = percentile_interval(bootstrap_means(values, 20_000))
    assert [low, high] == pytest.approx(np.percentile(plain, [2.5, 97.5]), abs=0.008)


def test_interval_of_a_mean_over_domains_is_narrower_than_that_of_one_domain():
    rng = np.random.default_rng(3)
    domains = [rng.random(100) for _ in range(9)]
    low, high = ci95(domains)
    low_of_one, high_of_one = ci95(domains[:1])
    assert (high - low) == pytest.approx((high_of_one - low_of_one) / 3, rel=0.2)


def test_interval_covers_the_true_mean_in_about_95_of_100_samples():
    rng = np.random.default_rng(4)
    hits = 0
    for seed in range(300):
        low, high = percentile_interval(bootstrap_means(rng.random(60) < 0.4, 500, seed))
        hits += low <= 0.4 <= high
    assert 0.9 < hits / 300 < 0.99


def test_interval_is_the_same_when_computed_twice():
    values = np.random.default_rng(5).random(30)
    assert ci95([values]) == ci95([values])

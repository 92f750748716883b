import numpy as np
import tensorflow as tf

from universal_embedding.input.mixing import draw_mix, mix, partners


def test_partners_are_pairs():
    assert partners(6) == [1, 0, 3, 2, 5, 4]
    assert partners(3) == [1, 0, 2]


def test_mix_against_a_loop():
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.uniform(0, 255, (5, 8, 8, 3)).astype(np.float32),
        "label": np.arange(5, dtype=np.int32),
        "domain": np.array([0, 0, 1, 0, 1], np.int32),
    }
    how = np.array(
        [[0.3, 0, 0, 0, 0], [1, 2, 1, 6, 8], [0.5, 0, 0, 0, 0], [1, 0, 0, 8, 8], [0.1, 0, 0, 0, 0]],
        np.float32,
    )
    result = {
        k: v.numpy() for k, v in mix({k: tf.constant(v) for k, v in batch.items()}, how).items()
    }
    image = batch["image"].copy()
    image[0] = 0.3 * batch["image"][0] + 0.7 * batch["image"][1]
    image[1, 2:6, 1:8] = batch["image"][0, 2:6, 1:8]
    np.testing.assert_allclose(result["image"], image, rtol=1e-6)
    np.testing.assert_allclose(result["mix"], [0.3, 1 - 28 / 64, 1, 1, 1], rtol=1e-6)
    assert result["label2"].tolist() == [1, 0, 3, 2, 4]


def draws(**options):
    function = tf.function(lambda seed: draw_mix(seed, 100, **options))
    return np.stack([function(tf.constant([s, 5])).numpy() for s in range(400)])


def test_mixup_shares_are_beta():
    how = draws(mixup=2.0, cutmix=0.0)
    assert (how[:, 1:] == 0).all()
    # Beta(2, 2): mean 1/2, variance 1/20
    assert abs(how[:, 0].mean() - 0.5) < 0.04
    assert abs(how[:, 0].var() - 0.05) < 0.012
    small = draws(mixup=0.01, cutmix=0.0)[:, 0]
    assert np.isfinite(small).all()


def test_cutmix_boxes():
    how = draws(mixup=0.0, cutmix=1.0)
    assert (how[:, 0] == 1).all()
    top, left, bottom, right = how[:, 1:].T
    assert ((top >= 0) & (bottom <= 100) & (top <= bottom)).all()
    assert ((left >= 0) & (right <= 100) & (left <= right)).all()
    assert how[:, 1:].std(axis=0).min() > 10


def test_a_coin_decides_between_both():
    how = draws(mixup=1.0, cutmix=1.0)
    cut = (how[:, 3] > how[:, 1]).mean()
    assert 0.4 < cut < 0.6

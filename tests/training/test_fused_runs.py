"""Runs over joined backbones: statistics, caches, frozen towers, and what evaluation loads."""

import keras
import numpy as np
import pytest

from universal_embedding.errors import UserError
from universal_embedding.export.embedder import Embedder
from universal_embedding.export.export import export_model
from universal_embedding.training import feature_cache
from universal_embedding.training.checkpoints import load_embedding_model
from universal_embedding.training.config import stage
from universal_embedding.training.dry_run.devices import find_device
from universal_embedding.training.dry_run.estimate import estimate_run
from universal_embedding.training.feature_statistics import fit_standardization, weighted_mean
from universal_embedding.training.hooks import default_hooks
from universal_embedding.training.initialization import initialize_model
from universal_embedding.training.run_directory import write_config
from universal_embedding.training.trainer import train

LINEAR = {"projection_lr": 1e-2, "head_lr": 1e-2}
ALL = {**LINEAR, "backbone_lr": 1e-2}


@pytest.fixture(scope="session")
def second_backbone(tmp_path_factory):
    keras.utils.set_random_seed(3)
    images = keras.Input((12, 12, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, activation="relu", name="low")(images)
    x = keras.layers.Conv2D(7, 3, activation="relu", name="high")(x)
    path = tmp_path_factory.mktemp("second") / "b.keras"
    keras.Model(images, keras.layers.GlobalAveragePooling2D()(x)).save(path)
    return path


@pytest.fixture
def config(config, tiny_backbone, second_backbone):
    config.model.backbone = f"{tiny_backbone}+{second_backbone}"
    return config


def run(experiment):
    assert train(experiment, default_hooks(experiment, {"val": lambda *_: SCORES}))


SCORES = {"merged/mean/r_at_1": 0.5}


@pytest.mark.slow
def test_frozen_and_fine_tuned_run_evaluates_with_the_statistics_of_its_start(
    make_experiment, config, records
):
    config.optimizer.ema_decay = 0.5
    config.stages = (stage(steps=3, input="features", **LINEAR), stage(steps=2, **ALL))
    experiment = make_experiment()
    fit_standardization(experiment, show_progress=False)
    model = experiment.model
    features = feature_cache.cache_features(
        experiment.workdir / "features", records, model, experiment.strategy, 4, False
    )
    weights = experiment.domain_weights(experiment.stages[0])
    rows = np.concatenate(list(features.values())).astype(np.float64)
    shares = np.concatenate([np.full(len(r), weights[d] / len(r)) for d, r in features.items()])
    mean = shares @ rows
    standardized = (rows - mean) * model.standardization.scale.numpy()
    lengths = [np.square(part).sum(1) @ shares for part in np.split(standardized, [8], axis=1)]
    np.testing.assert_allclose(model.standardization.mean.numpy(), mean, rtol=1e-5)
    np.testing.assert_allclose(lengths, 1, rtol=1e-5)
    run(experiment)
    images = np.random.default_rng(0).integers(0, 256, (2, 20, 24, 3)).astype(np.uint8)
    with experiment.ema_weights():
        expected = model(images)
    workdir = experiment.workdir
    write_config(workdir, experiment.config, {})
    np.testing.assert_array_equal(load_embedding_model(workdir, "last")(images), expected)
    initial = load_embedding_model(workdir, "initial")
    np.testing.assert_array_equal(initial.standardization.mean, model.standardization.mean)
    new = make_experiment("new").model
    initialize_model(new, workdir)
    np.testing.assert_array_equal(new(images), load_embedding_model(workdir, "best")(images))


@pytest.mark.slow
def test_export_of_a_prefix_gives_the_cost_of_each_backbone(make_experiment, config, tmp_path):
    config.stages = (stage(steps=1, input="features", **LINEAR),)
    experiment = make_experiment()
    run(experiment)
    write_config(experiment.workdir, experiment.config, {})
    lines = export_model(experiment.workdir, saved_model_dir=tmp_path / "saved", dimension=3)
    cost = lines[-3:]
    assert cost[0].startswith("cost: 0.00 M parameters") and "images/s here" in cost[0]
    assert "tiny.keras at 16 pixels" in cost[1] and "b.keras at 12 pixels" in cost[2]
    assert Embedder.from_pretrained(tmp_path / "saved").embedding_dim == 3


@pytest.mark.slow
def test_a_dry_run_finds_a_kernel_for_every_op(config, records):
    config.stages = (stage(steps=1, image_size=24, trainable_towers=(1,), **ALL),)
    estimate = estimate_run(config, records, {"val": 10}, find_device("v5e-4"), utilization=0.5)
    (planned,) = estimate.stages
    assert planned.ops_without_kernel == []  # an antialiased resize has none
    assert 0 < planned.backward_flops < planned.forward_flops  # one of the two is frozen


@pytest.mark.slow
def test_a_run_on_images_alone_has_statistics_too(make_experiment, config):
    config.stages = (stage(steps=1, **ALL),)
    experiment = make_experiment()
    run(experiment)
    assert experiment.model.standardization.is_fitted


@pytest.mark.slow
def test_one_backbone_is_standardized_if_asked(make_experiment, config, tiny_backbone):
    config.model.backbone = str(tiny_backbone)
    assert make_experiment().model.standardization is None
    config.model.standardize = True
    config.stages = (stage(steps=1, input="features", **LINEAR),)
    experiment = make_experiment("standardized")
    run(experiment)
    assert experiment.model.standardization.is_fitted


@pytest.mark.slow
def test_another_combination_computes_only_what_is_new(
    make_experiment, config, tiny_backbone, second_backbone, tmp_path, monkeypatch
):
    computed = []
    compute = feature_cache.FeatureCache.compute
    monkeypatch.setattr(
        feature_cache.FeatureCache,
        "compute",
        lambda self, *args: computed.append(self.folder) or compute(self, *args),
    )
    config.data.feature_dir = str(tmp_path / "features")
    config.stages = (stage(steps=1, input="features", **LINEAR),)
    run(make_experiment("two"))
    assert len(set(computed)) == len(computed) == 2
    config.model.backbone = f"{second_backbone}+{tiny_backbone}+{tiny_backbone}@20"
    run(make_experiment("three"))
    assert len(set(computed)) == len(computed) == 3


def test_towers_that_are_not_selected_stay_bit_identical(make_experiment, config):
    config.stages = (
        stage(steps=2, trainable_towers=(1,), trainable_blocks=1, layer_decay=0.5, **ALL),
    )
    experiment = make_experiment()
    first, second = experiment.model.backbone.towers
    before = [tower.get_weights() for tower in (first, second)]
    run(experiment)
    same = [
        [np.array_equal(a, b) for a, b in zip(tower.get_weights(), old, strict=True)]
        for tower, old in zip((first, second), before, strict=True)
    ]
    assert same == [[True] * 4, [True, True, False, False]]  # the last block of the second
    assert {name for name in experiment.param_groups if "backbone" in name} == {"backbone/1/0"}


def test_rates_of_blocks_decay_within_each_tower(make_experiment, config):
    config.stages = (stage(steps=2, layer_decay=0.5, **ALL),)
    groups = make_experiment().param_groups
    rates = {n: float(g.learning_rate(0)) for n, g in groups.items() if n.startswith("backbone")}
    peak = ALL["backbone_lr"]
    expected = {"backbone/0/0": peak, "backbone/0/1": peak / 2}
    expected |= {"backbone/1/0": peak, "backbone/1/1": peak / 2}
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize(
    ("fields", "frozen", "message"),
    [
        ({"trainable_towers": (2,)}, True, r"trainable_towers is \(2,\); it must be of positions"),
        ({"trainable_towers": (0,)}, False, "freeze_batch_norm"),
        ({"trainable_towers": (0,), "backbone_lr": 0.0}, True, "empty without a backbone_lr"),
        ({"trainable_towers": (0,), "stochastic_depth": True}, True, "empty with stochastic_depth"),
    ],
)
def test_towers_that_cannot_be_selected_are_one_line(
    make_experiment, config, fields, frozen, message
):
    config.model.freeze_batch_norm = frozen
    config.stages = (stage(steps=1, **ALL | fields),)
    with pytest.raises(UserError, match=message):
        make_experiment()


def test_the_mean_weighs_domains_and_joins_backbones():
    rng = np.random.default_rng(0)
    towers = [
        {"a": rng.normal(3, 2, (5000, dim)), "b": rng.normal(-1, 1, (7, dim))} for dim in (3, 2)
    ]
    mean = weighted_mean(np.square, towers, {"a": 0.25, "b": 0.75})
    shares = np.repeat([0.25 / 5000, 0.75 / 7], [5000, 7])
    joined = np.concatenate([np.concatenate(list(rows.values())) for rows in towers], axis=1)
    np.testing.assert_allclose(mean, np.average(joined**2, axis=0, weights=shares), rtol=1e-12)


@pytest.mark.parametrize(("power", "standardize"), [(0.5, False), (0.0, True), (1.5, True)])
def test_wrong_powers_are_one_line(make_experiment, config, tiny_backbone, power, standardize):
    config.model.update(backbone=str(tiny_backbone), feature_power=power, standardize=standardize)
    with pytest.raises(UserError, match=f"feature_power is {power}"):
        make_experiment()

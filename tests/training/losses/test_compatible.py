"""Backward-compatible training: the loss of new embeddings under an older run's classes."""

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.fake_records import make_domains
from tests.helpers.loss_batches import model_outputs, unit_rows
from tests.helpers.steps import take_steps
from universal_embedding.errors import UserError
from universal_embedding.training.experiment import Experiment
from universal_embedding.training.strategy import make_strategy

IDS = {"dates": [0, 1, 2, 3], "boats": [107, 5, 114, 6], "apples": [121, 100, 300, 107]}


@pytest.fixture
def second(save_run, config, tmp_path):
    """Makes a run over `IDS` that stays compatible with one over ids 100, 107, 114, 121."""

    def make(joint, **head):
        config.head.update(joint=joint, **head)
        first = save_run("first")
        config.losses.compatible.update(weight=1.0, run=str(first.workdir))
        records = make_domains(dict.fromkeys(IDS, 12), height=20, width=24)
        for domain, ids in IDS.items():
            records[domain].labels.values[:] = np.resize(ids, 12)
        workdir = tmp_path / "second"
        return first, Experiment.from_config(config, records, workdir, make_strategy())

    return make


def old_classes(experiment):
    """`{(domain, id): [K, D] unit rows}` of the first run."""
    variables = experiment.losses["classification"][1].head.class_weights
    rows = np.concatenate([v.numpy() for v in variables])
    names = [(d, i) for d in ("apples", "boats", "coins") for i in (100, 107, 114, 121)]
    return dict(zip(names, unit_rows(rows).reshape(len(names), -1, rows.shape[1]), strict=True))


@pytest.mark.parametrize("joint", [True, False])
def test_loss_is_cross_entropy_under_the_old_classes(second, joint):
    first, experiment = second(joint, margin=0.2, scale=8.0, num_subcenters=2)
    classes = old_classes(first)
    rng = np.random.default_rng(0)
    batch = {"domain": rng.integers(0, 3, 20), "label": rng.integers(0, 4, 20)}
    batch = {name: values.astype(np.int32) for name, values in batch.items()}
    embedding = unit_rows(rng.normal(size=(20, 5)))
    expected = []
    for domain, label, row in zip(batch["domain"], batch["label"], embedding, strict=True):
        key = list(IDS)[domain], sorted(IDS[list(IDS)[domain]])[label]
        if key not in classes:
            expected.append(0.0)
            continue
        logits = {k: 8 * (v @ row).max() for k, v in classes.items() if joint or k[0] == key[0]}
        logits[key] -= 8 * 0.2
        expected.append(np.log(sum(map(np.exp, logits.values()))) - logits[key])
    assert 5 < np.count_nonzero(expected) < 20
    loss = experiment.losses["compatible"][1]
    tensors = {name: tf.constant(value) for name, value in batch.items()}
    values = loss(tensors, model_outputs(tf.constant(embedding))).numpy()
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
    mix = rng.uniform(size=20).astype(np.float32)
    mixed = {**tensors, "label2": tensors["label"][::-1], "mix": tf.constant(mix)}
    partner = {**tensors, "label": mixed["label2"]}
    own = loss(mixed, model_outputs(tf.constant(embedding))).numpy()
    other = loss(partner, model_outputs(tf.constant(embedding))).numpy()
    np.testing.assert_allclose(own, mix * values + (1 - mix) * other, rtol=1e-5)


def test_training_moves_the_model_and_no_old_class(second):
    first, experiment = second(joint=True)
    before = [w.numpy() for w in experiment.weights]
    take_steps(experiment, experiment.stages[0])
    after = experiment.losses["compatible"][1].old_head.class_weights
    expected = first.losses["classification"][1].head.class_weights
    assert np.array_equal(after[0].numpy(), expected[0].numpy())
    assert any((a != w.numpy()).any() for a, w in zip(before, experiment.weights, strict=True))
    groups = [v for g in experiment.param_groups.values() for v in g.variables]
    assert not any(v is after[0] for v in groups)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losses.compatible.run": ""}, "set config.losses.compatible.run to its directory"),
        ({"model.embedding_dim": 4}, "has classes of 5 dimensions, and this run embeds in 4"),
        ({"data.domains": ("dates",)}, "has no class of this run's domains dates"),
    ],
)
def test_what_cannot_stay_compatible_is_refused(second, config, tmp_path, changes, message):
    second(joint=True)
    config.update_from_flattened_dict(changes)
    records = make_domains({"dates": 12}, num_classes=3, height=20, width=24)
    with pytest.raises(UserError, match=message):
        Experiment.from_config(config, records, tmp_path / "third", make_strategy())

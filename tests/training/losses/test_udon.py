"""Online distillation, against loops over its four terms."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.loss_batches import model_outputs, on_replicas, unit_rows
from universal_embedding.errors import UserError
from universal_embedding.training.config import stage
from universal_embedding.training.hooks import default_hooks
from universal_embedding.training.losses import loss_names
from universal_embedding.training.losses.classification import class_seed
from universal_embedding.training.strategy import mirrored
from universal_embedding.training.trainer import train

RATES = {"projection_lr": 1e-2, "head_lr": 1e-2, "schedule": "constant"}


@pytest.fixture
def config(config):
    config.losses.classification.weight = 0.0
    config.losses.udon.weight = 1.0
    config.losses.udon.teacher_dim = 6
    config.head.joint = False
    config.stages = (stage(steps=4, backbone_lr=1e-2, **RATES),)
    return config


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return {
        "features": tf.constant(rng.normal(size=(12, 8)), tf.float32),
        "domain": tf.constant(rng.integers(0, 3, 12), tf.int32),
        "label": tf.constant(rng.integers(0, 4, 12), tf.int32),
    }


def udon_terms(experiment, batch):
    """The four terms of a batch, or of a replica's slice of it."""
    _, loss = experiment.losses["udon"]
    embedding = experiment.model.embed_features(batch["features"])
    return loss(batch, model_outputs(embedding, batch["features"]))


def log_softmax(values):
    values = np.asarray(values, np.float64)
    return values - math.log(np.exp(values).sum())


def naive_terms(experiment, batch, scale, temperature):
    _, loss = experiment.losses["udon"]
    features, domains, labels = (batch[n].numpy() for n in ("features", "domain", "label"))
    has_bias = experiment.config.model.projection_bias
    features = unit_rows(features) if has_bias else features

    def project(dense, rows):
        bias = dense.bias.numpy() if has_bias else 0.0
        return unit_rows(rows @ dense.kernel.numpy() + bias)

    student = project(experiment.model.projection, features)
    teacher = [
        project(loss.projections[d], f[None])[0] for f, d in zip(features, domains, strict=True)
    ]
    rows = []
    for i, d in enumerate(domains):
        heads = (loss.teacher_head, loss.student.head)
        classes = [unit_rows(head.class_weights[d].numpy()) for head in heads]
        cosines = [classes[0] @ teacher[i], classes[1] @ student[i]]
        p, q = (log_softmax(c / temperature) for c in cosines)
        differences = [
            (teacher[i] @ teacher[j] - student[i] @ student[j]) ** 2
            for j in range(len(domains))
            if domains[j] == d and j != i
        ]
        similarities = 31 * np.mean(differences) if differences else 0.0
        entropy = [-log_softmax(scale * c)[labels[i]] for c in cosines]
        rows.append([*entropy, (np.exp(p) * (p - q)).sum(), similarities])
    return np.array(rows).T


@pytest.mark.parametrize(
    ("temperature", "has_bias", "num_replicas", "per_domain"),
    [(0.1, False, 1, False), (0.7, True, 2, False), (0.1, True, 1, True), (0.7, False, 2, True)],
)
def test_terms_equal_naive_loop(
    make_experiment, config, batch, temperature, has_bias, num_replicas, per_domain
):
    if per_domain:
        batch["domain"] = tf.ones_like(batch["domain"])
    config.model.projection_bias = has_bias
    config.losses.udon.class_temperature = temperature
    config.losses.udon.term_weights = (1.0, 2.0, 3.0, 4.0)
    experiment = make_experiment(strategy=mirrored(2) if num_replicas == 2 else None)
    if has_bias:
        rng = np.random.default_rng(1)
        for dense in (experiment.model.projection, *experiment.losses["udon"][1].projections):
            dense.bias.assign(rng.normal(size=dense.bias.shape))
    expected = naive_terms(experiment, batch, config.head.scale, temperature)
    weights = np.array([[0.1], [0.2], [0.3], [0.4]])
    terms = on_replicas(lambda part: udon_terms(experiment, part), batch, experiment.strategy)
    np.testing.assert_allclose(terms, expected * weights, rtol=1e-4, atol=1e-5)
    names = loss_names(experiment.losses)
    assert names[0] == "udon_teacher" and len(names) == 4


def reference_similarities(teacher, student, num_devices):
    """The paper's code: columns summed on each device, mean over its rows, times devices / 4."""
    means = []
    for t, s in zip(np.split(teacher, num_devices), np.split(student, num_devices), strict=True):
        means.append((((t @ t.T) - (s @ s.T)) ** 2).sum(axis=1).mean())
    return np.mean(means) * num_devices / 4


def test_similarities_have_the_scale_of_the_papers_code(make_experiment, config):
    experiment = make_experiment()
    _, loss = experiment.losses["udon"]
    features = np.random.default_rng(0).normal(size=(128, 8)).astype(np.float32)
    one_domain = np.zeros(128, np.int32)
    mixed = np.arange(128, dtype=np.int32) % 3
    values = {}
    for name, domain in (("one", one_domain), ("mixed", mixed)):
        batch = {"features": features, "domain": domain, "label": np.zeros(128, np.int32)}
        terms = udon_terms(experiment, {k: tf.constant(v) for k, v in batch.items()})
        values[name] = 4 * terms[3].numpy()
    student = unit_rows(features @ experiment.model.projection.kernel.numpy())
    teacher = unit_rows(features @ loss.projections[0].kernel.numpy())
    for num_devices in (1, 2, 4):
        reference = reference_similarities(teacher, student, num_devices)
        assert values["one"].mean() == pytest.approx(reference, rel=0.06)
    assert values["mixed"].mean() == pytest.approx(values["one"].mean(), rel=0.3)


def test_distillation_reaches_the_backbone_by_default(make_experiment, config, batch):
    experiment = make_experiment()
    with tf.GradientTape() as tape:
        tape.watch(batch["features"])
        distilled = tf.reduce_sum(udon_terms(experiment, batch)[2:])
    assert np.abs(tape.gradient(distilled, batch["features"])).max() > 0


def test_sampled_classes_of_teachers_and_students_differ(make_experiment, config, batch):
    config.head.num_sampled_classes = 2
    experiment = make_experiment()
    _, loss = experiment.losses["udon"]
    step = tf.constant(3, tf.int64)
    seeds = {p: class_seed(0, step, p).numpy().tolist() for p in ("student", "teacher")}
    assert seeds["student"] != seeds["teacher"] and [0, 3] not in seeds.values()
    for name, head in (("student", loss.student.head), ("teacher", loss.teacher_head)):
        terms = udon_terms(experiment, batch)  # step 0
        projected = experiment.model.embed_features(batch["features"])
        if name == "teacher":
            projected = loss._teacher_embedding(batch["features"], batch["domain"])
        expected = head(
            projected, batch["label"], batch["domain"], seed=class_seed(0, step * 0, name)
        )
        row = loss.terms.index(name)
        np.testing.assert_allclose(4 * terms[row], expected, rtol=1e-5)


@pytest.mark.parametrize("stop_gradient_at", ["projection", "backbone"])
def test_each_term_trains_its_weights_only(make_experiment, config, batch, stop_gradient_at):
    config.losses.udon.stop_gradient_at = stop_gradient_at
    experiment = make_experiment()
    _, loss = experiment.losses["udon"]
    groups = {
        "teacher": [
            variable
            for name, variables in loss.variables_by_group().items()
            if "teacher" in name
            for variable in variables
        ],
        "projection": [experiment.model.projection.kernel],
        "classes": loss.student.head.class_weights,
    }
    watched = {name: [v.value for v in variables] for name, variables in groups.items()}
    watched["backbone"] = batch["features"]
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(tf.nest.flatten(watched))
        terms = tf.unstack(udon_terms(experiment, batch))
    trained = {}
    for name, term in zip(loss.terms, terms, strict=True):
        gradients = tape.gradient(term, watched, unconnected_gradients="zero")
        trained[name] = {
            group
            for group, tensors in gradients.items()
            if any(np.abs(gradient).max() > 0 for gradient in tf.nest.flatten(tensors))
        }
    backbone = {"backbone"} if stop_gradient_at == "backbone" else set()
    assert trained == {
        "teacher": {"teacher", "backbone"},
        "student": {"projection", "classes", "backbone"},
        "logits": {"projection", "classes"} | backbone,
        "similarities": {"projection"} | backbone,
    }


def test_distillation_terms_are_zero_when_student_equals_teachers(make_experiment, config, batch):
    config.losses.udon.teacher_dim = config.model.embedding_dim
    config.losses.udon.stop_gradient_at = "backbone"
    experiment = make_experiment()
    _, loss = experiment.losses["udon"]
    for domain, projection in enumerate(loss.projections):
        projection.kernel.assign(experiment.model.projection.kernel)
        student_classes = loss.student.head.class_weights[domain]
        loss.teacher_head.class_weights[domain].assign(student_classes)
    kernel = experiment.model.projection.kernel.value
    with tf.GradientTape() as tape:
        terms = udon_terms(experiment, batch)
        distilled = tf.reduce_sum(terms[2:])
    np.testing.assert_allclose(terms[2:], 0, atol=1e-6)
    np.testing.assert_allclose(tape.gradient(distilled, kernel), 0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("batching", ["mixed", "per_domain"])
def test_training_is_independent_of_number_of_replicas(make_experiment, config, batching):
    config.data.batching = batching
    config.model.projection_bias = batching == "mixed"
    one, two = make_experiment("one"), make_experiment("two", mirrored(2))
    for experiment in (one, two):
        assert train(experiment, default_hooks(experiment))
    for name in ("model", "heads"):
        states = [experiment.checkpoint_state()[name] for experiment in (one, two)]
        for a, b in zip(*states, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-5, rtol=1e-5)


def test_groups_of_absent_domains_stay_unchanged(make_experiment, config):
    config.optimizer.weight_decay.head = 0.1
    experiment = make_experiment(stages=(stage(steps=3, domains=("boats",), **RATES),))
    groups = experiment.losses["udon"][1].variables_by_group()
    before = {name: [v.numpy() for v in variables] for name, variables in groups.items()}
    train(experiment, default_hooks(experiment))
    changed = {
        name
        for name, variables in groups.items()
        if not all(
            np.array_equal(a, b.numpy()) for a, b in zip(before[name], variables, strict=True)
        )
    }
    assert changed == {"teacher/boats", "head/boats"}


def test_invalid_stop_gradient_at_is_refused(make_experiment, config):
    config.losses.udon.stop_gradient_at = "teacher"
    with pytest.raises(UserError, match=r"losses\.udon\.stop_gradient_at"):
        make_experiment()


def test_invalid_term_weights_are_refused(make_experiment, config):
    config.losses.udon.term_weights = (1.0, 2.0)
    with pytest.raises(UserError, match=r"losses\.udon\.term_weights.*similarities"):
        make_experiment()


def test_joint_classifier_is_refused(make_experiment, config):
    config.losses.udon.stop_gradient_at = "backbone"
    config.head.joint = True
    with pytest.raises(UserError, match=r"config\.head\.joint=False"):
        make_experiment()

"""Online distillation, against loops over its four terms."""

import math

import numpy as np
import pytest
import tensorflow as tf
from teaching import unit

from universal_embedding.errors import UserError
from universal_embedding.training.config import stage
from universal_embedding.training.objectives.base import Outputs, loss_names
from universal_embedding.training.strategy import mirrored
from universal_embedding.training.trainer import Trainer

RATES = {"projection_rate": 1e-2, "head_rate": 1e-2, "schedule": "constant"}


@pytest.fixture
def config(config):
    config.objectives.classification = 0.0
    config.objectives.udon = 1.0
    config.head.joint = False
    config.distillation.teacher_dimension = 6
    config.stages = (stage(steps=4, backbone_rate=1e-2, **RATES),)
    return config


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return {
        "features": tf.constant(rng.normal(size=(12, 8)), tf.float32),
        "domain": tf.constant(rng.integers(0, 3, 12), tf.int32),
        "label": tf.constant(rng.integers(0, 4, 12), tf.int32),
    }


def outputs_of(run, features):
    step, factor = tf.constant(0, tf.int64), tf.constant(1.0)
    return Outputs(features, run.embedder.embed_features(features), step, factor)


def log_softmax(values):
    values = np.asarray(values, np.float64)
    return values - math.log(np.exp(values).sum())


def naive_terms(run, batch, scale, temperature):
    objective = run.objectives["udon"][1]
    features, domains, labels = (batch[n].numpy() for n in ("features", "domain", "label"))
    student = unit(features @ run.embedder.projection.kernel.numpy())
    kernels = [p.kernel.numpy() for p in objective.projections]
    teacher = [unit(f[None] @ kernels[d])[0] for f, d in zip(features, domains, strict=True)]
    rows = []
    for i, d in enumerate(domains):
        classes = [
            unit(h.class_weights[d].numpy()) for h in (objective.teacher, objective.student.head)
        ]
        cosines = [classes[0] @ teacher[i], classes[1] @ student[i]]
        p, q = (log_softmax(c / temperature) for c in cosines)
        similar = sum(
            (teacher[i] @ teacher[j] - student[i] @ student[j]) ** 2
            for j in range(len(domains))
            if domains[j] == d
        )
        entropy = [-log_softmax(scale * c)[labels[i]] for c in cosines]
        rows.append([*entropy, (np.exp(p) * (p - q)).sum(), similar])
    return np.array(rows).T


@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_the_four_terms(make_run, config, batch, temperature):
    config.distillation.class_temperature = temperature
    config.distillation.udon_weights = (1.0, 2.0, 3.0, 4.0)
    run = make_run()
    losses = run.objectives["udon"][1].losses(batch, outputs_of(run, batch["features"]))
    expected = naive_terms(run, batch, config.head.scale, temperature)
    shares = np.array([[0.1], [0.2], [0.3], [0.4]])
    np.testing.assert_allclose(losses, expected * shares, rtol=1e-4, atol=1e-5)
    assert loss_names(run.objectives)[0] == "udon_teacher" and len(run.losses) == 4


@pytest.mark.parametrize("where", ["projection", "backbone"])
def test_where_gradients_go(make_run, config, batch, where):
    config.distillation.student_gradient = where
    run = make_run()
    objective = run.objectives["udon"][1]
    features = batch["features"]
    groups = {
        "teacher": [v for k, of in objective.parts().items() if "teacher" in k for v in of],
        "projection": [run.embedder.projection.kernel],
        "classes": objective.student.head.class_weights,
    }
    watched = {name: [v.value for v in of] for name, of in groups.items()} | {"backbone": features}
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(tf.nest.flatten(watched))
        terms = tf.unstack(objective.losses(batch, outputs_of(run, features)))
    trained = {}
    for name, term in zip(objective.terms, terms, strict=True):
        gradients = tape.gradient(term, watched, unconnected_gradients="zero")
        reached = {
            k: any(np.abs(g).max() > 0 for g in tf.nest.flatten(v)) for k, v in gradients.items()
        }
        trained[name] = {k for k, yes in reached.items() if yes}
    through = {"backbone"} if where == "backbone" else set()
    assert trained == {
        "teacher": {"teacher", "backbone"},
        "student": {"projection", "classes", "backbone"},
        "logits": {"projection", "classes"} | through,
        "similarities": {"projection"} | through,
    }


def test_a_student_that_equals_its_teachers_has_nothing_to_learn_from_them(make_run, config, batch):
    config.distillation.teacher_dimension = config.model.dimension
    config.distillation.student_gradient = "backbone"
    run = make_run()
    objective = run.objectives["udon"][1]
    for d, projection in enumerate(objective.projections):
        projection.kernel.assign(run.embedder.projection.kernel)
        objective.teacher.class_weights[d].assign(objective.student.head.class_weights[d])
    kernel = run.embedder.projection.kernel.value
    with tf.GradientTape() as tape:
        terms = objective.losses(batch, outputs_of(run, batch["features"]))
        distilled = tf.reduce_sum(terms[2:])
    np.testing.assert_allclose(terms[2:], 0, atol=1e-6)
    np.testing.assert_allclose(tape.gradient(distilled, kernel), 0, atol=1e-5)


@pytest.mark.parametrize("batches", ["mixed", "domain"])
def test_nothing_depends_on_the_number_of_replicas(make_run, config, batches):
    config.data.batch = batches
    runs = [make_run("one"), make_run("two", mirrored(2))]
    for run in runs:
        assert Trainer(run).run()
    for name in ("embedder", "heads"):
        for a, b in zip(runs[0].state()[name], runs[1].state()[name], strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-5, rtol=1e-5)


def test_teachers_of_absent_domains_rest(make_run, config):
    config.optimizer.weight_decay.head = 0.1
    run = make_run(stages=(stage(steps=3, domains=("boats",), **RATES),))
    before = {k: [v.numpy() for v in of] for k, of in run.objectives["udon"][1].parts().items()}
    Trainer(run).run()
    after = run.objectives["udon"][1].parts()
    changed = {
        k
        for k, of in before.items()
        if not all(np.array_equal(a, b.numpy()) for a, b in zip(of, after[k], strict=True))
    }
    assert changed == {"teacher/boats", "head/boats"}


def test_what_cannot_be_is_refused(make_run, config):
    config.distillation.student_gradient = "teacher"
    with pytest.raises(UserError, match="student_gradient"):
        make_run()
    config.distillation.student_gradient = "backbone"
    config.head.joint = True
    with pytest.raises(UserError, match=r"config\.head\.joint=False"):
        make_run()

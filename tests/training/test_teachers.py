"""Teachers: which model sees which picture, and that nothing of them is trained or saved."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.training.checkpoints import load_embedder
from universal_embedding.training.config import base_config, stage
from universal_embedding.training.run import Run
from universal_embedding.training.strategy import mirrored
from universal_embedding.training.teachers import Teachers
from universal_embedding.training.trainer import Trainer
from universal_embedding.training.work_directory import write_run

ALL = {"backbone_rate": 1e-2, "projection_rate": 1e-2, "head_rate": 1e-2}


@pytest.fixture(scope="module")
def specialists(tiny_backbone, records, tmp_path_factory):
    """A specialist of each domain, untrained, no two of the same size."""
    config = base_config()
    config.data.batch_size = 12
    config.model.backbone = str(tiny_backbone)
    config.model.image_size = 16
    config.stages = (stage(steps=2, **ALL),)
    parent = tmp_path_factory.mktemp("specialists")
    for number, domain in enumerate(records):
        config.seed, config.model.dimension = number, 3 + number
        own = {domain: records[domain]}
        run = Run(config, own, parent / domain, tf.distribute.get_strategy())
        write_run(run.workdir, config, {})
        trainer = Trainer(run)  # which writes the architecture
        trainer.checkpoints.save(0)
        trainer.checkpoints.wait()
    return str(parent / "{domain}")


def embedder_of(pattern, domain):
    return load_embedder(Path(pattern.replace("{domain}", domain)))


@pytest.fixture
def student(config, specialists):
    config.objectives.feng = 1.0
    config.distillation.teachers = specialists
    config.stages = (stage(steps=4, **ALL),)
    return config


def test_each_picture_goes_to_its_domains_teacher(records, specialists):
    teachers = Teachers(specialists, list(records))
    teachers.load()
    images = np.random.default_rng(0).uniform(0, 255, (6, 16, 16, 3)).astype(np.float32)
    domain = np.array([2, 0, 1, 1, 0, 2], np.int32)
    rows = teachers({"image": tf.constant(images), "domain": tf.constant(domain)}).numpy()
    assert rows.shape == (6, 5) and not teachers.universal
    for number, key in enumerate(records):
        own = embedder_of(specialists, key)
        here = domain == number
        np.testing.assert_allclose(rows[here][:, : 3 + number], own(images[here]), atol=1e-5)
        assert not rows[here][:, 3 + number :].any()


def test_a_universal_teacher_teaches_all(records, specialists):
    teachers = Teachers(specialists.replace("{domain}", "coins"), list(records))
    teachers.load()
    images = tf.fill([2, 16, 16, 3], 90.0)
    rows = teachers({"image": images, "domain": tf.constant([0, 1])})
    assert teachers.universal and rows.shape == (2, 5)


def test_a_saved_model_teaches(records, specialists, tmp_path):
    saved_model = pytest.importorskip("universal_embedding.export.saved_model")
    embedder = embedder_of(specialists, "apples")
    saved_model.save(embedder, tmp_path / "exported")
    teachers = Teachers(str(tmp_path / "exported"), list(records))
    teachers.load()
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.float32)
    rows = teachers({"image": tf.constant(images), "domain": tf.constant([0, 1])})
    np.testing.assert_allclose(rows, embedder(images), atol=1e-5)


def test_embeddings_computed_once_are_those_of_whole_pictures(records, specialists, tmp_path):
    teachers = Teachers(specialists, list(records))
    rows = teachers.cached(tmp_path / "rows", records, tf.distribute.get_strategy(), show=False)
    from universal_embedding.input.pipeline import evaluation_batches

    for number, (domain, of) in enumerate(records.items()):
        own = embedder_of(specialists, domain)
        batch = next(iter(evaluation_batches(of, len(of), 16)))
        np.testing.assert_allclose(rows[domain][:, : 3 + number], own(batch["image"]), atol=1e-5)
        assert rows[domain].shape == (len(of), 5)
    again = Teachers("nowhere/{domain}", list(records))  # found, so no teacher is loaded
    found = again.cached(tmp_path / "rows", records, tf.distribute.get_strategy(), show=False)
    assert all(np.array_equal(found[domain], rows[domain]) for domain in records)


@pytest.mark.parametrize("once", [True, False])
def test_batches_carry_the_rows_of_their_pictures(make_run, student, once):
    student.distillation.once = once
    run = make_run()
    batch = next(run.batches(run.stages[0], 3))
    assert ("teacher" in batch) == once
    if once:
        draw = run._draws(run.stages[0]).at(3)
        keys = list(run.records)
        for d, r, row in zip(draw.domain, draw.record, batch["teacher"].numpy(), strict=True):
            np.testing.assert_array_equal(
                row[: 3 + d], np.load(run.workdir / "teachers" / f"{keys[d]}.npy")[r]
            )


@pytest.mark.parametrize("source", ["pictures", "features"])
def test_nothing_depends_on_the_number_of_replicas(make_run, student, source):
    rates = {**ALL, "backbone_rate": 0.0} if source == "features" else ALL
    student.stages = (stage(steps=3, input=source, **rates),)
    runs = [make_run("one"), make_run("two", mirrored(2))]
    for run in runs:
        assert Trainer(run).run()
    for a, b in zip(runs[0].weights, runs[1].weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-5, rtol=1e-5)


def test_teachers_stay_as_they_are_and_out_of_the_checkpoint(make_run, student):
    run = make_run()
    Trainer(run).run()
    plain = {id(v) for of in run.state().values() for v in of}
    for domain, teacher in zip(run.records, run.teachers._loaded, strict=True):
        own = embedder_of(run.config.distillation.teachers, domain)
        assert not plain & {id(weight.value) for weight in teacher.weights}
        for a, b in zip(own.weights, teacher.weights, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_a_missing_teacher_is_named(make_run, student):
    student.distillation.teachers = "nowhere/{domain}"
    run = make_run()
    with pytest.raises(UserError, match="nowhere/apples"):
        run.batches(run.stages[0], 0)

"""Teachers: each image goes to its domain's model, and none is trained or saved."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.export.saved_model import save_model
from universal_embedding.input.pipeline import evaluation_batches
from universal_embedding.training.checkpoints import Checkpoints, load_embedding_model
from universal_embedding.training.config import base_config, stage
from universal_embedding.training.data import stage_batches
from universal_embedding.training.experiment import Experiment
from universal_embedding.training.hooks import default_hooks
from universal_embedding.training.model import save_architecture
from universal_embedding.training.run_directory import write_config
from universal_embedding.training.strategy import mirrored
from universal_embedding.training.teachers import Teachers
from universal_embedding.training.trainer import train

ALL_RATES = {"backbone_lr": 1e-2, "projection_lr": 1e-2, "head_lr": 1e-2}


@pytest.fixture(scope="module")
def specialists(tiny_backbone, records, tmp_path_factory):
    """Pattern of the run directories of untrained specialists, no two of the same size."""
    config = base_config()
    config.data.batch_size = 12
    config.model.backbone = str(tiny_backbone)
    config.model.image_size = 16
    config.stages = (stage(steps=2, **ALL_RATES),)
    parent = tmp_path_factory.mktemp("specialists")
    for index, (domain, domain_records) in enumerate(records.items()):
        config.seed, config.model.embedding_dim = index, 3 + index
        workdir = parent / domain
        experiment = Experiment.from_config(
            config, {domain: domain_records}, workdir, tf.distribute.get_strategy()
        )
        write_config(workdir, config, {})
        save_architecture(workdir, experiment.model)
        checkpoints = Checkpoints(workdir, experiment.checkpoint_state())
        checkpoints.save(0)
        checkpoints.wait()
    return str(parent / "{domain}")


def load_specialist(pattern, domain):
    return load_embedding_model(Path(pattern.replace("{domain}", domain)))


@pytest.fixture
def student(config, specialists):
    config.losses.distance_distribution.weight = 1.0
    config.distillation.teachers = specialists
    config.stages = (stage(steps=4, **ALL_RATES),)
    return config


def test_specialists_embed_images_of_their_domain(records, specialists):
    teachers = Teachers(specialists, list(records))
    teachers.load()
    images = np.random.default_rng(0).uniform(0, 255, (6, 16, 16, 3)).astype(np.float32)
    domain = np.array([2, 0, 1, 1, 0, 2], np.int32)
    rows = teachers({"image": tf.constant(images), "domain": tf.constant(domain)}).numpy()
    assert rows.shape == (6, 5) and not teachers.is_universal
    for index, key in enumerate(records):
        specialist, mask = load_specialist(specialists, key), domain == index
        np.testing.assert_allclose(rows[mask][:, : 3 + index], specialist(images[mask]), atol=1e-5)
        assert not rows[mask][:, 3 + index :].any()


def test_universal_teacher_embeds_images_of_all_domains(records, specialists):
    teachers = Teachers(specialists.replace("{domain}", "coins"), list(records))
    teachers.load()
    images = tf.fill([2, 16, 16, 3], 90.0)
    rows = teachers({"image": images, "domain": tf.constant([0, 1])})
    assert teachers.is_universal and rows.shape == (2, 5)


def test_saved_model_embeds_like_its_run(records, specialists, tmp_path):
    specialist = load_specialist(specialists, "apples")
    save_model(specialist, tmp_path / "exported")
    teachers = Teachers(str(tmp_path / "exported"), list(records))
    teachers.load()
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.float32)
    rows = teachers({"image": tf.constant(images), "domain": tf.constant([0, 1])})
    np.testing.assert_allclose(rows, specialist(images), atol=1e-5)


def test_saved_model_without_serving_signature_is_refused(records, tmp_path):
    tf.saved_model.save(tf.Module(), str(tmp_path / "other"))
    with pytest.raises(UserError, match=r"other.*serving_default"):
        Teachers(str(tmp_path / "other"), list(records)).load()


def test_cached_embeddings_are_those_of_whole_images(records, specialists, tmp_path):
    strategy, folder = tf.distribute.get_strategy(), tmp_path / "rows"
    teachers = Teachers(specialists, list(records))
    rows = teachers.cached_embeddings(folder, records, strategy, show_progress=False)
    for index, (domain, domain_records) in enumerate(records.items()):
        specialist = load_specialist(specialists, domain)
        batch = next(iter(evaluation_batches(domain_records, len(domain_records), 16)))
        expected = specialist(batch["image"])
        assert rows[domain].shape == (len(domain_records), 3 + index)
        np.testing.assert_allclose(rows[domain], expected, atol=1e-5)


def test_cached_embeddings_are_read_without_loading_teachers(records, specialists, tmp_path):
    strategy, folder = tf.distribute.get_strategy(), tmp_path / "rows"
    teachers = Teachers(specialists, list(records))
    rows = teachers.cached_embeddings(folder, records, strategy, show_progress=False)
    absent = Teachers("nowhere/{domain}", list(records))
    cached = absent.cached_embeddings(folder, records, strategy, show_progress=False)
    assert all(np.array_equal(cached[domain], rows[domain]) for domain in records)


@pytest.mark.parametrize("cache_teachers", [True, False])
def test_batches_carry_cached_embeddings_of_their_records(make_experiment, student, cache_teachers):
    student.distillation.cache_teachers = cache_teachers
    experiment = make_experiment()
    (first_stage,) = experiment.stages
    batch = next(stage_batches(experiment, first_stage, 3))
    assert ("teacher" in batch) == cache_teachers
    if cache_teachers:
        spec = experiment.batch_sampler(first_stage).batch_at(3)
        np.testing.assert_array_equal(batch["record"], spec.record)
        keys = list(experiment.records)
        for d, r, row in zip(spec.domain, spec.record, batch["teacher"].numpy(), strict=True):
            cached = np.load(experiment.workdir / "teachers" / f"{keys[d]}.npy")
            np.testing.assert_array_equal(row[: 3 + d], cached[r])


@pytest.mark.parametrize("stage_input", ["images", "features"])
def test_training_is_independent_of_number_of_replicas(make_experiment, student, stage_input):
    rates = {**ALL_RATES, "backbone_lr": 0.0} if stage_input == "features" else ALL_RATES
    student.stages = (stage(steps=3, input=stage_input, **rates),)
    one, two = make_experiment("one"), make_experiment("two", mirrored(2))
    for experiment in (one, two):
        assert train(experiment, default_hooks(experiment))
    for a, b in zip(one.weights, two.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-5, rtol=1e-5)


def test_teachers_stay_unchanged_and_out_of_checkpoint(make_experiment, student):
    experiment = make_experiment()
    train(experiment, default_hooks(experiment))
    saved = {id(v) for variables in experiment.checkpoint_state().values() for v in variables}
    teachers = experiment.teachers.models
    for domain, teacher in zip(experiment.records, teachers, strict=True):
        specialist = load_specialist(experiment.config.distillation.teachers, domain)
        assert not saved & {id(weight.value) for weight in teacher.weights}
        for a, b in zip(specialist.weights, teacher.weights, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_missing_teacher_is_named(make_experiment, student):
    student.distillation.teachers = "nowhere/{domain}"
    experiment = make_experiment()
    with pytest.raises(UserError, match="nowhere/apples"):
        stage_batches(experiment, experiment.stages[0], 0)

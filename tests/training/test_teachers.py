"""Teachers: each image goes to its domain's model, and none is trained or saved."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.export.saved_model import save_model
from universal_embedding.input.pipeline import evaluation_batches
from universal_embedding.training.checkpoints import Checkpoints, load_embedding_model
from universal_embedding.training.config import base_config, stage, teacher
from universal_embedding.training.data import stage_batches
from universal_embedding.training.experiment import Experiment
from universal_embedding.training.hooks import default_hooks
from universal_embedding.training.model import save_architecture
from universal_embedding.training.run_directory import write_config
from universal_embedding.training.strategy import mirrored
from universal_embedding.training.teachers import Teachers
from universal_embedding.training.trainer import train

STRATEGY = tf.distribute.get_strategy()
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


def make_teachers(records, folder, *specs):
    config = base_config()
    config.distillation.teachers = tuple(teacher(s) if isinstance(s, str) else s for s in specs)
    return Teachers(config, records, folder)


def load_specialist(pattern, domain):
    return load_embedding_model(Path(pattern.replace("{domain}", domain)))


@pytest.fixture
def student(config, specialists):
    config.losses.distance_distribution.weight = 1.0
    config.distillation.teachers = (teacher(specialists),)
    config.stages = (stage(steps=4, **ALL_RATES),)
    return config


def test_specialists_embed_images_of_their_domain(records, specialists, tmp_path):
    (teachers,) = make_teachers(records, tmp_path, specialists)
    teachers.load()
    images = np.random.default_rng(0).uniform(0, 255, (6, 16, 16, 3)).astype(np.float32)
    domain = np.array([2, 0, 1, 1, 0, 2], np.int32)
    rows = teachers({"image": tf.constant(images), "domain": tf.constant(domain)}).numpy()
    assert rows.shape == (6, 5) and not teachers.is_universal
    for index, key in enumerate(records):
        specialist, mask = load_specialist(specialists, key), domain == index
        np.testing.assert_allclose(rows[mask][:, : 3 + index], specialist(images[mask]), atol=1e-5)
        assert not rows[mask][:, 3 + index :].any()


def test_universal_teacher_embeds_images_of_all_domains(records, specialists, tmp_path):
    (teachers,) = make_teachers(records, tmp_path, specialists.replace("{domain}", "coins"))
    teachers.load()
    images = tf.fill([2, 16, 16, 3], 90.0)
    rows = teachers({"image": images, "domain": tf.constant([0, 1])})
    assert teachers.is_universal and rows.shape == (2, 5)


def test_saved_model_embeds_like_its_run(records, specialists, tmp_path):
    specialist = load_specialist(specialists, "apples")
    save_model(specialist, tmp_path / "exported")
    (teachers,) = make_teachers(records, tmp_path, str(tmp_path / "exported"))
    teachers.load()
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.float32)
    rows = teachers({"image": tf.constant(images), "domain": tf.constant([0, 1])})
    np.testing.assert_allclose(rows, specialist(images), atol=1e-5)


def test_saved_model_without_serving_signature_is_refused(records, tmp_path):
    tf.saved_model.save(tf.Module(), str(tmp_path / "other"))
    with pytest.raises(UserError, match=r"other.*serving_default"):
        next(iter(make_teachers(records, tmp_path, str(tmp_path / "other")))).load()


def test_cached_embeddings_are_those_of_whole_images(records, specialists, tmp_path):
    (teachers,) = make_teachers(records, tmp_path, specialists)
    ((key, rows),) = teachers.cached_rows(STRATEGY, False, show_progress=False).items()
    assert key == teachers.rows_key
    for index, (domain, domain_records) in enumerate(records.items()):
        specialist = load_specialist(specialists, domain)
        batch = next(iter(evaluation_batches(domain_records, len(domain_records), 16)))
        expected = specialist(batch["image"])
        assert rows[domain].shape == (len(domain_records), 3 + index)
        np.testing.assert_allclose(rows[domain], expected, atol=1e-5)


def test_cached_embeddings_are_read_without_loading_teachers(records, specialists, tmp_path):
    (teachers,) = make_teachers(records, tmp_path, teacher(specialists, name="x"))
    rows = teachers.cached_rows(STRATEGY, False, show_progress=False)[teachers.rows_key]
    (absent,) = make_teachers(records, tmp_path, teacher("nowhere/{domain}", name="x"))
    cached = absent.cached_rows(STRATEGY, False, show_progress=False)[absent.rows_key]
    assert all(np.array_equal(cached[domain], rows[domain]) for domain in records)


@pytest.mark.parametrize("cache_teachers", [True, False])
def test_batches_carry_cached_embeddings_of_their_records(make_experiment, student, cache_teachers):
    student.distillation.cache_teachers = cache_teachers
    experiment = make_experiment()
    (first_stage,) = experiment.stages
    batch = next(stage_batches(experiment, first_stage, 3))
    (teachers,) = experiment.teachers
    assert (teachers.rows_key in batch) == cache_teachers
    if cache_teachers:
        spec = experiment.batch_sampler(first_stage).batch_at(3)
        np.testing.assert_array_equal(batch["record"], spec.record)
        keys = list(experiment.records)
        for d, r, row in zip(
            spec.domain, spec.record, batch[teachers.rows_key].numpy(), strict=True
        ):
            cached = np.load(experiment.workdir / "teachers" / teachers.name / f"{keys[d]}.npy")
            np.testing.assert_array_equal(row[: 3 + d], cached[r])


@pytest.fixture(scope="module")
def exported_specialists(specialists, records, tmp_path_factory):
    """Pattern of the SavedModels of the specialists."""
    parent = tmp_path_factory.mktemp("exports")
    for domain in records:
        save_model(load_specialist(specialists, domain), parent / domain)
    return str(parent / "{domain}")


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("stage_input", "teachers", "jit_compile"),
    [
        pytest.param("images", "specialists", False, marks=SLOW),
        pytest.param("features", "specialists", False, marks=SLOW),
        pytest.param("images", "specialists", True, marks=SLOW),
        pytest.param("images", "exported_specialists", False, marks=SLOW),
        pytest.param("images", "exported_specialists", True, marks=SLOW),
        pytest.param("images", "one of all domains", False, marks=SLOW),
    ],
)
def test_training_is_independent_of_number_of_replicas(
    make_experiment, student, request, stage_input, teachers, jit_compile
):
    rates = {**ALL_RATES, "backbone_lr": 0.0} if stage_input == "features" else ALL_RATES
    student.stages = (stage(steps=3, input=stage_input, **rates),)
    student.losses.rkd_distance.weight = 1.0
    if teachers == "one of all domains":
        source = request.getfixturevalue("specialists").format(domain="coins")
    else:
        source = request.getfixturevalue(teachers)
    student.distillation.teachers = (teacher(source),)
    one = make_experiment("one")
    two = make_experiment("two", mirrored(2), jit_compile=jit_compile)
    for experiment in (one, two):
        assert train(experiment, default_hooks(experiment))
        assert experiment.teachers.models  # they ran in the step
    for a, b in zip(one.weights, two.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-5, rtol=1e-5)


def test_teachers_stay_unchanged_and_out_of_checkpoint(make_experiment, student):
    experiment = make_experiment()
    train(experiment, default_hooks(experiment))
    saved = {id(v) for variables in experiment.checkpoint_state().values() for v in variables}
    pattern = experiment.config.distillation.teachers[0].source
    for domain, model in zip(experiment.records, experiment.teachers.models, strict=True):
        specialist = load_specialist(pattern, domain)
        assert not saved & {id(weight.value) for weight in model.weights}
        for a, b in zip(specialist.weights, model.weights, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_missing_teacher_is_named(make_experiment, student):
    student.distillation.teachers = (teacher("nowhere/{domain}"),)
    experiment = make_experiment()
    with pytest.raises(UserError, match="nowhere/apples"):
        stage_batches(experiment, experiment.stages[0], 0)

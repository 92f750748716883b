"""Several teachers beside each other: models, backbones and tables; projectors; resume."""

import numpy as np
import pytest

from tests.helpers.killing import train_until_killed
from universal_embedding.datasets.embedding_table import write_npz
from universal_embedding.errors import UserError
from universal_embedding.export.saved_model import save_model
from universal_embedding.training.config import stage, teacher
from universal_embedding.training.data import stage_batches
from universal_embedding.training.dry_run.devices import find_device
from universal_embedding.training.dry_run.estimate import estimate_run
from universal_embedding.training.hooks import default_hooks
from universal_embedding.training.phi_s import PhiS
from universal_embedding.training.strategy import mirrored
from universal_embedding.training.trainer import train

RATES = {"projection_lr": 1e-2, "head_lr": 1e-2}


@pytest.fixture
def student(config):
    config.losses.update_from_flattened_dict(
        {"distance_distribution.weight": 1.0, "embedding_matching.weight": 1.0}
    )
    config.distillation.update(drop_probability=0.5, balance_decay=0.9, cache_teachers=True)
    config.stages = (stage(steps=4, backbone_lr=1e-2, **RATES),)
    return config


@pytest.fixture
def write_table(records, tmp_path):
    """Writes a table of random unit rows of some domains; returns its path."""

    def write(name, dim, domains=None):
        rng = np.random.default_rng(dim)
        pairs = []
        for domain in domains or records:
            rows = rng.normal(size=(len(records[domain]), dim)).astype(np.float32)
            pairs.append((records[domain], rows / np.linalg.norm(rows, axis=1, keepdims=True)))
        write_npz(tmp_path / f"{name}.npz", pairs)
        return str(tmp_path / f"{name}.npz")

    return write


def run(experiment):
    assert train(experiment, default_hooks(experiment))
    return {o: [v.numpy() for v in vs] for o, vs in experiment.checkpoint_state().items()}


def assert_equal_states(state, other, tolerance=0.0):
    for owner, values in state.items():
        for value, other_value in zip(values, other[owner], strict=True):
            np.testing.assert_allclose(
                other_value, value, rtol=tolerance, atol=tolerance, err_msg=owner
            )


@pytest.fixture
def three_teachers(student, tiny_backbone, write_table):
    """A backbone, a table of all domains, and one of two of the three domains."""
    student.distillation.teachers = (
        teacher(str(tiny_backbone)),
        teacher(write_table("all", 12), weight=2.0),
        teacher(write_table("two", 7, ("apples", "coins")), domains=("apples", "coins")),
    )
    return student


@pytest.mark.slow
def test_table_equals_its_model_to_the_last_digit(
    make_experiment, student, save_run, records, tmp_path
):
    weights = {name: student.losses[name].weight for name in student.losses}
    for name in student.losses:
        student.losses[name].weight = float(name == "classification")
    model = save_run("model").model
    for name, weight in weights.items():
        student.losses[name].weight = weight
    save_model(model, tmp_path / "exported")
    student.distillation.teachers = (teacher(str(tmp_path / "exported"), name="x"),)
    of_model = make_experiment("of model")
    state = run(of_model)
    folder = of_model.workdir / "teachers" / "x"
    pairs = [(r, np.load(folder / f"{domain}.npy")) for domain, r in records.items()]
    write_npz(tmp_path / "table.npz", pairs)
    student.distillation.teachers = (teacher(str(tmp_path / "table.npz"), name="x"),)
    assert_equal_states(run(make_experiment("of table")), state)


@pytest.mark.slow
def test_training_is_independent_of_replicas_and_xla(make_experiment, three_teachers):
    state = run(make_experiment("one"))
    assert len(state["projectors"]) == 6 and state["loss_states"][0].shape == (3,)
    assert (state["loss_states"][0] > 0).all()
    two = run(make_experiment("two", mirrored(2), jit_compile=True))
    assert_equal_states(state, two, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("stage_input", ["images", "features"])
def test_killed_run_ends_like_an_uninterrupted_one(make_experiment, three_teachers, stage_input):
    rates = {"backbone_lr": 1e-2} if stage_input == "images" else {}
    three_teachers.stages = (stage(steps=8, input=stage_input, **rates, **RATES),)
    three_teachers.steps_per_execution = 1
    whole = run(make_experiment("whole"))
    train_until_killed(make_experiment("killed"), 6)
    assert_equal_states(run(make_experiment("killed")), whole)


def test_projectors_learn_at_a_rate_of_their_own_and_are_no_part_of_the_model(
    make_experiment, three_teachers
):
    three_teachers.stages = (stage(steps=2, projector_lr=0.0, backbone_lr=1e-2, **RATES),)
    experiment = make_experiment("frozen")
    assert "projector" not in experiment.param_groups
    three_teachers.stages = (stage(steps=2, projector_lr=1e-3, **RATES),)
    experiment = make_experiment("trained")
    group = experiment.param_groups["projector"]
    assert group.group == "projector" and len(group.variables) == 6
    assert float(group.learning_rate(0)) == pytest.approx(1e-3)
    own = {id(v) for v in group.variables}
    assert not own & {id(v) for v in experiment.model.variables}
    names = experiment.loss_names
    assert [n for n in names if n.startswith("embedding_matching")] == [
        "embedding_matching",
        "embedding_matching_tiny",
        "embedding_matching_all",
        "embedding_matching_two",
    ]


def test_batches_carry_standardized_rows_and_masks(make_experiment, three_teachers):
    experiment = make_experiment()
    batch = next(stage_batches(experiment, experiment.stages[0], 0, show_progress=False))
    tiny, everything, two = experiment.teachers
    assert tiny.knows(batch) is None
    known = two.knows(batch).numpy()
    np.testing.assert_array_equal(known, batch["domain"].numpy() != 1)
    assert not two(batch).numpy()[~known].any() and two(batch).numpy()[known].any(1).all()
    folder = experiment.workdir / "teachers"
    for member, dim in ((tiny, 8), (everything, 12), (two, 7)):
        rows, standardized = member(batch).numpy(), member.standardized(batch).numpy()
        assert rows.shape == standardized.shape == (12, dim)
        with np.load(folder / member.name / "phi_s.npz") as file:
            phi_s = PhiS(file["mean"], file["rotation"], float(file["scale"]))
        mask = known if member is two else np.ones(12, bool)
        np.testing.assert_allclose(np.linalg.norm(rows[mask], axis=1), 1, rtol=1e-5)
        np.testing.assert_allclose(standardized[mask], phi_s.apply(rows[mask]), atol=1e-5)
    of_all = [np.load(p) for p in sorted((folder / "all" / "standardized").glob("*.npy"))]
    np.testing.assert_allclose(np.concatenate(of_all).var(0), 1, rtol=1e-4)


def test_models_on_every_batch_are_standardized_alike(make_experiment, three_teachers):
    three_teachers.distillation.cache_teachers = False
    three_teachers.distillation.teachers = three_teachers.distillation.teachers[:1]
    experiment = make_experiment()
    batch = next(stage_batches(experiment, experiment.stages[0], 0, show_progress=False))
    (tiny,) = experiment.teachers
    assert tiny.rows_key not in batch
    expected = tiny.sources[0].phi_s.apply(tiny(batch).numpy())
    np.testing.assert_allclose(tiny.standardized(batch), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "tiny"}, "two teachers named 'tiny'"),
        ({"domains": ("apples", "cars")}, r"\['cars'\]; the run has apples, boats, coins"),
    ],
)
def test_impossible_teachers_are_refused(
    make_experiment, three_teachers, tiny_backbone, spec, message
):
    first = three_teachers.distillation.teachers[0]
    three_teachers.distillation.teachers = (first, teacher(str(tiny_backbone), **spec))
    with pytest.raises(UserError, match=message):
        make_experiment()


def test_missing_row_of_a_table_ends_training_in_one_line(make_experiment, student, write_table):
    student.distillation.teachers = (teacher(write_table("t", 4, ("apples", "coins"))),)
    with pytest.raises(UserError, match="no row for 50 of the 50 images of boats"):
        run(make_experiment())


def test_mixed_images_have_no_rows(make_experiment, student, write_table):
    student.distillation.teachers = (teacher(write_table("t", 4)),)
    student.augmentation.mixup = 0.5
    with pytest.raises(UserError, match="the table of the teacher 't' has no embeddings of mixed"):
        run(make_experiment())


@pytest.mark.slow
def test_dry_run_counts_projectors_and_rows(config, three_teachers, records):
    config.data.batch_size = 8
    estimate = estimate_run(config, records, {"val": 10}, find_device("v3-8"), 0.4)
    config.losses.embedding_matching.weight = 0.0
    without = estimate_run(config, records, {"val": 10}, find_device("v3-8"), 0.4)
    dims = (8, 12, 7)
    memory, other = estimate.stages[0].memory, without.stages[0].memory
    assert memory["projectors"] == 4 * sum(5 * dim + dim for dim in dims)
    assert other["projectors"] == 0
    # Embeddings of the student's size stand in for those of losses that need no projector.
    assert memory["input"] - other["input"] == 2 * 4 * (2 * sum(dims) - 3 * 5)
    assert estimate.disk_bytes - without.disk_bytes >= 4 * 100 * 2 * sum(dims)

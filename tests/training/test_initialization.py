"""`config.init_from` and `config.init_head`: the weights that a new run starts from."""

import numpy as np
import pytest

from tests.helpers.fake_records import make_domains
from tests.helpers.killing import Killed, KillHook, StartHook
from universal_embedding.errors import UserError
from universal_embedding.export.saved_model import save_model
from universal_embedding.training.checkpoints import load_embedding_model
from universal_embedding.training.experiment import Experiment
from universal_embedding.training.run_directory import write_config
from universal_embedding.training.strategy import make_strategy
from universal_embedding.training.trainer import train


def start_values(experiment):
    """Model weights and class weights at step 0 of a new run, and its description of the start."""
    start = StartHook()
    write_config(experiment.workdir, experiment.config, {})
    with pytest.raises(Killed):
        train(experiment, [start, KillHook(0)])
    assert start.step == 0
    head = next(loss.head for _, loss in experiment.losses.values() if loss.head)
    return start.weights, [v.numpy() for v in head.class_weights], start.started_from


def assert_equal(actual, expected):
    assert all(np.array_equal(a, b) for a, b in zip(actual, expected, strict=True))


def test_a_run_starts_from_the_averaged_weights_that_were_scored(save_run, make_experiment, config):
    config.optimizer.ema_decay = 0.9
    first = save_run("first")
    config.init_from = str(first.workdir)
    weights, _, started_from = start_values(make_experiment("second"))
    assert_equal(weights, [a.numpy() for a in first.ema.averages])
    assert any((a != w.numpy()).any() for a, w in zip(weights, first.weights, strict=True))
    assert started_from == str(first.workdir)
    initial = load_embedding_model(make_experiment("second").workdir, "initial")
    assert_equal([w.numpy() for w in initial.weights], weights)


def test_another_image_size_resizes_what_depends_on_it(save_run, make_experiment, config):
    first = save_run("first")
    config.init_from, config.model.image_size = str(first.workdir), 24
    weights, _, _ = start_values(make_experiment("second"))
    assert_equal(weights, [w.numpy() for w in first.weights])  # a convolutional network


def test_a_run_starts_from_an_export(save_run, make_experiment, config, tmp_path):
    first = save_run("first")
    for float16 in (False, True):
        folder = tmp_path / f"export{float16}"
        save_model(load_embedding_model(first.workdir), folder, float16)
        config.init_from = str(folder)
        weights, _, _ = start_values(make_experiment(f"from{float16}"))
        for value, weight in zip(weights, first.weights, strict=True):
            np.testing.assert_allclose(value, weight.numpy(), rtol=1e-3 if float16 else 0)


@pytest.mark.parametrize(
    ("joint", "source_joint"),
    [(True, False), (False, True)]
    + [pytest.param(joint, joint, marks=pytest.mark.slow) for joint in (True, False)],
)
def test_classes_are_matched_by_domain_and_id(save_run, config, tmp_path, source_joint, joint):
    config.head.num_subcenters = 2
    config.head.joint = source_joint
    first = save_run("first")  # ids 100, 107, 114, 121 in apples, boats, coins
    sizes = {"boats": 12, "apples": 15, "dates": 9}
    records = make_domains(sizes, num_classes=3, height=20, width=24)
    records["apples"].labels.values[:] = np.resize([107, 300, 121, 99, 114], 15)
    config.head.joint, config.init_from, config.init_head = joint, str(first.workdir), True
    second = Experiment.from_config(config, records, tmp_path / "second", make_strategy())
    fresh = np.concatenate([v.numpy() for v in _class_weights(second)])
    _, values, started_from = start_values(second)
    values = np.concatenate(values).reshape(-1, 2, 5)
    old = np.concatenate([v.numpy() for v in _class_weights(first)]).reshape(-1, 2, 5)
    expected = fresh.reshape(-1, 2, 5).copy()
    names = [("boats", i) for i in (100, 107, 114)]
    names += [("apples", i) for i in (99, 107, 114, 121, 300)] + [("dates", i) for i in (0, 1, 2)]
    sources = [(d, i) for d in ("apples", "boats", "coins") for i in (100, 107, 114, 121)]
    copied = 0
    for row, name in enumerate(names):
        if name in sources:
            expected[row] = old[sources.index(name)]
            copied += 1
    np.testing.assert_array_equal(values, expected)
    with np.load(second.workdir / "class_ids.npz") as file:
        assert file["domains"].tolist() == ["boats", "apples", "dates"]
        assert file["ids"][3:8].tolist() == [99, 107, 114, 121, 300]
    assert started_from.endswith(f", with {copied} of 11 classes") and copied == 6


def _class_weights(experiment):
    return next(loss.head for _, loss in experiment.losses.values() if loss.head).class_weights


def test_the_run_remembers_its_start(save_run, make_experiment, config):
    first = save_run("first")
    config.init_from = str(first.workdir)
    second = save_run("second")
    write_config(second.workdir, config, {})
    config.init_from = ""
    with pytest.raises(UserError, match=r"init_from: .*first -> "):
        write_config(second.workdir, config, {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_from": "{tmp}/nowhere"}, "is neither a run directory"),
        ({"init_head": True}, "set init_from"),
        ({"init_from": "{first}", "model.embedding_dim": 4}, "another architecture"),
        ({"init_from": "{first}", "init_head": True, "head.num_subcenters": 3}, "1 sub-centers"),
        ({"init_from": "{tmp}/export", "init_head": True}, "has no classes"),
    ],
)
def test_what_cannot_be_the_start_is_refused(
    save_run, make_experiment, config, tmp_path, changes, message
):
    first = save_run("first")
    if message == "has no classes":
        save_model(load_embedding_model(first.workdir), tmp_path / "export")
    for name, value in changes.items():
        if isinstance(value, str):
            value = value.format(tmp=tmp_path, first=first.workdir)
        config.update_from_flattened_dict({name: value})
    with pytest.raises(UserError, match=message):
        start_values(make_experiment("second"))

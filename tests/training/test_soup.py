"""Soups of runs, against numpy means and a brute-force greedy choice."""

import argparse

import numpy as np
import pytest

from tests.helpers.fake_records import make_domains
from universal_embedding.commands import soup as soup_command
from universal_embedding.errors import UserError
from universal_embedding.evaluation import soup
from universal_embedding.evaluation.embed import QueryIndexRecords
from universal_embedding.training.checkpoints import Checkpoints, load_embedding_model
from universal_embedding.training.initialization import read_class_weights
from universal_embedding.training.run_directory import read_config, save_config


@pytest.fixture
def folders(save_run):
    """Three runs that differ in their backbones alone."""
    return [save_run(f"run{seed}", seed).workdir for seed in range(3)]


def weights_of(folder, checkpoint="best"):
    return [weight.numpy() for weight in load_embedding_model(folder, checkpoint).weights]


@pytest.mark.parametrize(
    ("ema_decay", "joint"), [pytest.param(0.0, True, marks=pytest.mark.slow), (0.9, False)]
)
def test_uniform_soup_is_the_mean_of_the_scored_weights(
    save_run, config, tmp_path, ema_decay, joint
):
    config.optimizer.ema_decay, config.head.joint = ema_decay, joint
    runs = [save_run(f"run{seed}", seed) for seed in range(3)]
    folders = [run.workdir for run in runs]
    result = soup.make_soup(folders, tmp_path / "soup")
    scored = [[w.numpy() for w in (r.ema.averages if ema_decay else r.weights)] for r in runs]
    expected = [np.mean(values, axis=0) for values in zip(*scored, strict=True)]
    for value, mean in zip(weights_of(tmp_path / "soup"), expected, strict=True):
        np.testing.assert_allclose(value, mean, atol=1e-6)
    assert result == soup.Soup([0, 1, 2], None, True)
    classes = [read_class_weights(folder) for folder in (folders[0], tmp_path / "soup")]
    for domain in ("apples", "boats", "coins"):
        for a, b in zip(classes[0][domain], classes[1][domain], strict=True):
            np.testing.assert_array_equal(a, b)


def test_start_share_interpolates_with_the_initial_weights(folders, tmp_path):
    soup.make_soup(folders[:1], tmp_path / "soup", start_share=0.3)
    pairs = zip(weights_of(folders[0]), weights_of(folders[0], "initial"), strict=True)
    for value, (trained, start) in zip(weights_of(tmp_path / "soup"), pairs, strict=True):
        np.testing.assert_allclose(value, 0.7 * trained + 0.3 * start, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_greedy_choice_equals_a_loop(seed):
    rng = np.random.default_rng(seed)
    weights = [[rng.normal(size=3).astype(np.float32)] for _ in range(6)]
    target = rng.normal(size=3)

    def score(values):
        return -float(np.abs(values[0] - target).sum())

    order = sorted(range(6), key=lambda i: -score(weights[i]))
    members, best = [order[0]], score(weights[order[0]])
    for i in order[1:]:
        mean = sum(weights[j][0].astype(np.float64) for j in [*members, i]) / (len(members) + 1)
        if score([mean.astype(np.float32)]) >= best:
            members.append(i)
            best = score([mean.astype(np.float32)])
    assert soup.choose_greedily(weights, score) == (members, best)


def test_greedy_soup_by_the_validation_score_of_the_run(folders, monkeypatch, tmp_path, capsys):
    domains = make_domains({"apples": 12, "boats": 9}, height=20, width=24)
    eval_sets = {domain: QueryIndexRecords(r, None) for domain, r in domains.items()}
    monkeypatch.setattr(soup, "open_eval_sets", lambda *_: eval_sets)
    for folder in folders:
        save_config(folder, read_config(folder) | {"data_dir": "data"})
    score = soup.make_score(folders[0])
    scores = [score(load_embedding_model(folder)) for folder in folders]
    assert all(0 <= value <= 1 for value in scores)
    arguments = [*map(str, folders), f"--output={tmp_path}/soup", "--method=greedy"]
    parser = argparse.ArgumentParser()
    soup_command.add_arguments(parser)
    soup_command.run(parser.parse_args(arguments))
    printed = capsys.readouterr().out
    best = score(load_embedding_model(tmp_path / "soup"))
    assert best >= max(scores) and f"validation: {best:.4f}" in printed
    assert str(folders[int(np.argmax(scores))]) in printed and "note:" not in printed


def test_runs_without_a_common_space_are_noted(save_run, tmp_path):
    folders = [save_run(f"run{seed}", seed, head_seed=seed).workdir for seed in range(2)]
    assert not soup.make_soup(folders, tmp_path / "soup").share_space
    assert read_class_weights(tmp_path / "soup") == {}


def test_what_cannot_be_a_soup_is_refused(save_run, folders, config, tmp_path):
    config.model.embedding_dim = 4
    other = save_run("other").workdir
    with pytest.raises(UserError, match=r"differ in config\.model\.embedding_dim \(4, not 5\)"):
        soup.make_soup([folders[0], other], tmp_path / "soup")
    with pytest.raises(UserError, match="already exists"):
        soup.make_soup(folders, folders[0])
    with pytest.raises(UserError, match="is not a run directory"):
        soup.make_soup([tmp_path / "nowhere"], tmp_path / "soup")
    with pytest.raises(UserError, match=r"run0 does not say where its data is"):
        soup.make_score(folders[0])
    assert not (tmp_path / "soup").exists()


def test_a_run_that_diverged_and_a_soup_that_was_killed_leave_nothing(
    save_run, folders, monkeypatch, tmp_path
):
    diverged = save_run("diverged")
    state = diverged.checkpoint_state()
    for variable in (state["model"][0], *state["ema"][:1]):
        variable.assign(np.full(variable.shape, np.nan))
    checkpoints = Checkpoints(diverged.workdir, state, background=False)
    checkpoints.save(1)
    with pytest.raises(UserError, match=r"diverged has weights that are NaN or infinite"):
        soup.make_soup([folders[0], diverged.workdir], tmp_path / "soup")

    def kill(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(soup, "save_config", kill)
        soup.make_soup(folders, tmp_path / "soup")
    assert not (tmp_path / "soup").exists()
    soup.make_soup(folders, tmp_path / "soup")

"""Runs behind UnED's table: finished rows are kept, interrupted ones resume, all share features."""

import numpy as np
import pytest
import uned_runs
from uned_figures import uned_table

from tests.helpers.layouts import write_uned_layout
from universal_embedding.datasets import prepare
from universal_embedding.datasets.uned import UnedLayoutBuilder
from universal_embedding.errors import UserError
from universal_embedding.evaluation.embed import from_model
from universal_embedding.training.checkpoints import load_embedding_model, newest_step
from universal_embedding.training.config import base_config, stage, teacher

pytestmark = pytest.mark.slow
RATES = {"projection_lr": 1e-2, "head_lr": 1e-2}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    root, data_dir = tmp_path_factory.mktemp("manual"), tmp_path_factory.mktemp("data")
    for domain in ("toys", "birds"):
        splits = {
            split: [(f"{domain}/{split}/{i}.jpg", first + i % 4) for i in range(16)]
            for split, first in (("train", 0), ("val", 10), ("test", 20))
        }
        write_uned_layout(root, domain, splits)
        prepare.prepare(UnedLayoutBuilder("tiny", domain, data_dir=data_dir), root)
    return data_dir


class TinyRunner(uned_runs.Runner):
    num_steps = 4

    def make_config(self, name):
        config = base_config()
        config.data.update(dataset="tiny", batch_size=8)
        config.model.update(backbone="small", image_size=32, embedding_dim=4)
        config.checkpoint_every_steps = 1
        config.stages = (stage(steps=self.num_steps, input="features", **RATES),)
        if name == "all":
            config.stages = (stage(steps=self.num_steps, backbone_lr=1e-3, **RATES),)
        if name == "distance_distribution":
            config.losses.distance_distribution.weight = 1.0
            config.distillation.teachers = (teacher(f"{self.folder}/{{domain}}"),)
        return config

    def make_specialist(self, domain):
        config = self.make_config("specialist")
        config.data.domains = (domain,)
        return config


@pytest.fixture
def make_runner(data_dir, tmp_path):
    def make():
        features = tmp_path / "features"
        options = {"validates": True, "bootstrap_samples": 20}
        return TinyRunner(data_dir, "tiny", tmp_path / "runs", features, **options)

    return make


@pytest.mark.parametrize("name", ["linear", "all"])
def test_scores_are_those_of_the_whole_model(make_runner, name):
    runner = make_runner()
    scores = runner.run_row(name)
    model = load_embedding_model(runner.folder / name)
    eval_sets = runner.eval_sets["test"]
    whole = uned_runs.embed_eval_sets(from_model("x", model, 5), eval_sets)
    shared = uned_runs.embed_eval_sets(runner.source(name, runner.make_config(name)), eval_sets)
    for key, domain in whole.items():
        np.testing.assert_allclose(shared[key].query, domain.query, atol=1e-5)
    assert scores["test"] == uned_runs.evaluate_domains(shared, bootstrap_samples=20)
    low, high = scores["test"]["merged"]["mean"]["ci95"]["r_at_1"]
    assert low <= scores["test"]["merged"]["mean"]["r_at_1"] <= high
    assert (runner.features_folder / "test" / "toys.npy").exists() == (name == "linear")


def test_finished_rows_are_kept_and_another_config_is_refused(make_runner, monkeypatch):
    first = make_runner()
    rows = (uned_runs.ORACLE, "linear", "distance_distribution")
    scores = {name: first.run_row(name) for name in rows}
    assert (
        scores[uned_runs.ORACLE]["test"]["merged"] == scores[uned_runs.ORACLE]["test"]["separate"]
    )
    table = uned_table({"results": {name: values["test"] for name, values in scores.items()}})
    assert table.count("\n| specialists + oracle |") == 2
    monkeypatch.setattr(uned_runs.common, "train_to_end", None)  # nothing is trained again
    second = make_runner()
    assert {name: second.run_row(name) for name in rows} == scores
    TinyRunner.num_steps = 5
    with pytest.raises(UserError, match="holds a run with another config"):
        second.run_row("linear")
    TinyRunner.num_steps = 4


def test_an_interrupted_row_resumes(make_runner, monkeypatch):
    expected = make_runner().run_row("linear")
    interrupted = make_runner()
    interrupted.folder = interrupted.folder.with_name("interrupted")
    interrupt = uned_runs.cache_features

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(uned_runs, "cache_features", stop)  # the first validation
    with pytest.raises(KeyboardInterrupt):
        interrupted.run_row("linear")
    monkeypatch.setattr(uned_runs, "cache_features", interrupt)
    step = newest_step(interrupted.folder / "linear")
    assert step > 0 and not (interrupted.folder / "linear" / "scores.json").exists()
    assert interrupted.run_row("linear") == expected

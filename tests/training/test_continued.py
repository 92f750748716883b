"""Runs that continue another with new classes: the recipe `continued`."""

import json

import numpy as np
import pytest

from tests.helpers.fake_records import make_domains
from tests.helpers.killing import Killed, KillHook
from tests.helpers.layouts import write_uned_layout
from tests.helpers.loss_batches import model_outputs, unit_rows
from tests.helpers.processes import run_cli
from tests.helpers.tiny_run import newest_step, prepare_run
from universal_embedding.commands.config_flag import read_config_flag, recipe_names
from universal_embedding.errors import UserError
from universal_embedding.training.config import base_config, load_config
from universal_embedding.training.experiment import Experiment
from universal_embedding.training.run_directory import write_config
from universal_embedding.training.strategy import make_strategy
from universal_embedding.training.trainer import train

RECIPES = [name for name in recipe_names() if name != "continued"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_config_is_read_back_as_it_was_written(recipe):
    config = read_config_flag(recipe)
    restored = load_config(base_config(), json.loads(config.to_json()))
    assert restored.to_json() == config.to_json()
    assert type(restored.stages[0].steps) is int and restored.is_locked


def test_unknown_field_of_an_older_run_is_named():
    with pytest.raises(UserError, match="has 'momentum_of_old', which is no field any more"):
        load_config(base_config(), {"momentum_of_old": 1})


@pytest.fixture
def continued(save_run, config, tmp_path):
    """A run over old and new classes that starts from `first`, and `first`."""
    config.data.dataset = "old"
    first = save_run("first")
    second_config = read_config_flag(f"continued:run={first.workdir},data=new,replay=0")
    records = make_domains(
        {"apples": 36, "boats": 36, "coins": 36}, num_classes=6, height=20, width=24
    )
    workdir = tmp_path / "second"
    second = Experiment.from_config(second_config, records, workdir, make_strategy())
    write_config(workdir, second_config, {})
    with pytest.raises(Killed):
        train(second, [KillHook(0)])
    return first, second


def test_recipe_takes_the_run_and_adds_what_keeps_its_index_valid(continued):
    first, second = continued
    config = second.config
    assert config.data.dataset == "old+new" and config.init_head
    assert config.init_from == config.losses.compatible.run == str(first.workdir)
    assert config.stages == first.config.stages and config.data.batch_size == 12


def test_head_carried_over_gives_the_old_loss_on_old_classes(continued):
    first, second = continued
    rng = np.random.default_rng(0)
    embedding = unit_rows(rng.normal(size=(30, 5)))
    batch = {"domain": rng.integers(0, 3, 30), "label": rng.integers(0, 4, 30)}
    batch = {name: values.astype(np.int32) for name, values in batch.items()}
    expected = first.losses["classification"][1](batch, model_outputs(embedding)).numpy()
    values = second.losses["compatible"][1](batch, model_outputs(embedding)).numpy()
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    old, new = (e.losses["classification"][1].head.class_weights[0].numpy() for e in continued)
    np.testing.assert_array_equal(new.reshape(3, 6, 5)[:, :4], old.reshape(3, 4, 5))
    assert all(np.array_equal(a, b) for a, b in zip(first.weights, second.weights, strict=True))


@pytest.mark.parametrize("argument", ["", "run=runs/x", "data=new"])
def test_recipe_without_run_or_data_is_refused(argument):
    with pytest.raises(UserError, match="needs run=RUN_DIRECTORY and data=NEW_DATASET"):
        read_config_flag(f"continued:{argument}")


@pytest.mark.parametrize(
    "flags", [["--continue_from=runs/x"], ["--data=new"], [], ["--config=demo", "--data=new"]]
)
def test_half_of_the_flags_is_refused(flags, capsys):
    from universal_embedding.cli import main

    with pytest.raises(SystemExit, match="1"):
        main(["train", "--workdir=x", *flags])
    assert "give --config=RECIPE, or --continue_from=RUN together with" in capsys.readouterr().err


@pytest.mark.slow
def test_new_classes_join_a_trained_run(tiny_backbone, tmp_path):
    flags = prepare_run(tmp_path, tiny_backbone)
    code, _, err = run_cli("train", *flags, f"--workdir={tmp_path / 'old'}")
    assert code == 0, err[-3000:]
    for domain, ids in (("birds", [2, 50, 51]), ("kites", [1, 2, 3])):
        counts = {"train": 18, "val": 6, "test": 4}
        images = {
            split: [(f"{domain}/new/{split}/{i}.jpg", ids[i % 3]) for i in range(count)]
            for split, count in counts.items()
        }
        write_uned_layout(tmp_path / "new", domain, images)
    data = flags[1]
    assert run_cli("prepare", f"--manual_dir={tmp_path / 'new'}", data)[0] == 0
    new_flags = [f"--continue_from={tmp_path / 'old'}", "--data=new", data, "--deterministic"]
    code, _, err = run_cli("train", *new_flags, f"--workdir={tmp_path / 'run'}")
    assert code == 0, err[-3000:]
    info = json.loads((tmp_path / "run" / "config.json").read_text())
    assert {d: v["num_classes"] for d, v in info["domains"].items()} == {
        "birds": 6,
        "kites": 3,
        "toys": 4,
    }
    assert newest_step(tmp_path / "run") == 72
    code, out, err = run_cli(
        "evaluate",
        "--compatible",
        str(tmp_path / "old"),
        str(tmp_path / "run"),
        data,
        "--dataset=tiny+new",
        "--split=val",
        "--num_examples=0",
        f"--output={tmp_path / 'report'}",
    )
    assert code == 0, err[-3000:]
    assert "index: old" in out and "compatible pairs (AC)" in out

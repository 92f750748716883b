"""`universal-embedding train` answers a user's mistake in one line, with exit code 1."""

import pytest

from tests.helpers.processes import run_cli

DEMO = "--config=demo"
BAD_RECIPES = {
    "raises.py": "def get_config():\n    return 1 / 0\n",
    "syntax.py": "def get_config(: pass\n",
}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([DEMO, "--config.data.batch_sise=3"], "batch_size"),
        ([DEMO, "--config.modle.image_size=3"], "model"),
        ([DEMO, "--config.losses.supcon.temprature=3"], "temperature"),
        ([DEMO, "--config.evals.val.evry_steps=3"], "every_steps"),
        ([DEMO, "--config.stages[0].stepz=3"], "steps"),
        ([DEMO, "--config.data.batch_size=many"], "batch_size"),
        ([DEMO, "--workdri=x"], "workdir"),
        ([DEMO, "--strategy=mirorred"], "mirrored"),
        (["--config=configs/nothing.py"], "configs/nothing.py"),
        (["--config=unde"], "uned"),
        ([f"{DEMO}:small"], "runlocal=..."),
        (["--config=distill:finetune_steps=many"], "finetune_steps must be a whole number"),
        (["--config={tmp}/raises.py"], "ZeroDivisionError"),
        (["--config={tmp}/syntax.py"], "SyntaxError"),
        (["--config=uned:bakbone=x"], "backbone"),
        (["--config=configs/uned.py:domain=dogs"], "domain=dogs"),
    ],
)
def test_mistake_is_one_line(arguments, message, tmp_path):
    _check(arguments, message, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([DEMO, "--data_dir={tmp}/none"], "universal-embedding prepare"),
        ([DEMO, "--strategy=multi_worker"], "TF_CONFIG"),
    ],
)
def test_mistake_that_needs_tensorflow_is_one_line(arguments, message, tmp_path):
    _check(arguments, message, tmp_path)


def _check(arguments, message, folder):
    for name, text in BAD_RECIPES.items():
        (folder / name).write_text(text)
    arguments = [argument.format(tmp=folder) for argument in arguments]
    code, _, err = run_cli("train", f"--workdir={folder}/run", *arguments)
    assert code == 1
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert message in err and "Traceback" not in err
    assert not (folder / "run").exists()

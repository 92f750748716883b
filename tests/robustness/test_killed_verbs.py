"""Verbs that are killed again and again end with what an undisturbed call gives."""

import json
import random
import time

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.corrupt_images import corrupt_images
from tests.helpers.image_folder import draw_color
from tests.helpers.processes import finish, run_cli, start
from tests.helpers.tiny_model import export_tiny_model
from universal_embedding.app.index_files import IndexFiles
from universal_embedding.datasets.records import Records
from universal_embedding.export.embedder import Embedder

pytestmark = pytest.mark.robustness
NUM_KILLS = 20
CONFIG = """
from universal_embedding.training.config import base_config, stage

def get_config():
    config = base_config()
    config.data.dataset = "folder"
    config.data.batch_size = 8
    config.model.backbone = "small"
    config.model.image_size = 32
    config.model.embedding_dim = 4
    config.log_every_steps = config.evals.val.every_steps = 50
    config.checkpoint_every_steps = 10
    config.stages = (stage(steps=600, backbone_lr=1e-2, projection_lr=1e-2, head_lr=1e-2),)
    return config
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Six classes of 30 images, and 60 corrupt ones."""
    folder = tmp_path_factory.mktemp("killed") / "photos"
    for c in range(6):
        (folder / f"class{c}").mkdir(parents=True)
        for i in range(30):
            image = draw_color(("red", "green", "blue")[c % 3], 100 * c + i, side=64)
            image.save(folder / f"class{c}" / f"{i}.png")
    for name, data in corrupt_images(60, seed=5):
        (folder / "class0" / name).write_bytes(data)
    return folder


def kill_repeatedly(verb, flags, seconds):
    """Starts a verb and kills it after a random part of `seconds`, `NUM_KILLS` times."""
    rng = random.Random(verb)
    num_killed = 0
    for _ in range(NUM_KILLS):
        process = start("-m", "universal_embedding", verb, *flags)
        deadline = time.monotonic() + seconds * rng.uniform(0.3, 1)
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        num_killed += process.poll() is None
        process.kill()
        _, _, err = finish(process)
        assert "Traceback" not in err, err
    return num_killed


def run_timed(verb, flags):
    start_time = time.monotonic()
    code, out, err = run_cli(verb, *flags)
    assert code == 0, err[-3000:]
    return time.monotonic() - start_time, out


def read_records(folder):
    """All examples by file; their bytes differ between processes, which order maps differently."""
    files = sorted(folder.rglob("*.tfrecord-*"))
    parse = tf.train.Example.FromString
    return {
        path.name: [parse(row) for row in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()]
        for path in files
    }


def test_prepare(images, tmp_path):
    flags = [f"--manual_dir={images}", "--dataset=folder", "--skip_corrupt"]
    seconds, expected = run_timed("prepare", [*flags, f"--data_dir={tmp_path / 'whole'}"])
    killed = kill_repeatedly("prepare", [*flags, f"--data_dir={tmp_path / 'killed'}"], seconds)
    _, table = run_timed("prepare", [*flags, f"--data_dir={tmp_path / 'killed'}", "--verify"])
    print(f"prepare: {killed} SIGKILLs, then whole and verified\n{expected}{table}")
    assert read_records(tmp_path / "killed") == read_records(tmp_path / "whole")
    version = next((tmp_path / "killed").glob("*/*/*/skipped.jsonl")).parent
    domain = version.parent.name
    skipped = (version / "skipped.jsonl").read_text().splitlines()
    splits = [Records(version, domain, s) for s in ("train", "val", "test")]
    assert sum(map(len, splits)) + len(skipped) == 6 * 30 + 60


def test_index(images, tmp_path):
    export_tiny_model(tmp_path)
    flags = [f"--model={next(tmp_path.glob('*.zip'))}", f"--images={images}", "--batch_size=4"]
    seconds, _ = run_timed("index", [*flags, f"--output={tmp_path / 'whole'}"])
    killed = kill_repeatedly("index", [*flags, f"--output={tmp_path / 'killed'}"], seconds)
    run_timed("index", [*flags, f"--output={tmp_path / 'killed'}"])
    whole, actual = IndexFiles.read(tmp_path / "whole"), IndexFiles.read(tmp_path / "killed")
    print(f"index: {killed} SIGKILLs; {len(actual.names)} images, {len(actual.corrupt)} unreadable")
    assert actual.names == whole.names and actual.corrupt == whole.corrupt
    np.testing.assert_allclose(actual.embeddings, whole.embeddings, atol=1e-5)
    assert len(actual.names) + len(actual.corrupt) == 6 * 30 + 60
    leftovers = {p.suffix for p in (tmp_path / "killed").iterdir() if p.name != ".lock"}
    assert leftovers == {".json", ".npy"}


@pytest.fixture(scope="module")
def run_flags(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("config")
    (folder / "config.py").write_text(CONFIG)
    data_dir = f"--data_dir={folder / 'records'}"
    run_timed("prepare", [f"--manual_dir={images}", "--dataset=folder", "--skip_corrupt", data_dir])
    return [f"--config={folder / 'config.py'}", data_dir, "--deterministic"]


def state_of(workdir):
    path = tf.train.latest_checkpoint(str(workdir / "checkpoints" / "last"))
    reader = tf.train.load_checkpoint(path)
    names = [n for n in reader.get_variable_to_shape_map() if "save_counter" not in n]
    return path.rpartition("/")[2], {
        n: reader.get_tensor(n) for n in names if n != "_CHECKPOINTABLE_OBJECT_GRAPH"
    }


@pytest.fixture(scope="module")
def trained(run_flags, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    seconds, _ = run_timed("train", [*run_flags, f"--workdir={workdir}"])
    return workdir, seconds


def test_train(run_flags, trained, tmp_path):
    whole, seconds = trained
    flags = [*run_flags, f"--workdir={tmp_path / 'killed'}"]
    killed = kill_repeatedly("train", flags, seconds)
    run_timed("train", flags)
    (step, expected), (last, actual) = state_of(whole), state_of(tmp_path / "killed")
    different = [name for name in expected if not np.array_equal(expected[name], actual[name])]
    rows = [json.loads(x)["step"] for x in (tmp_path / "killed/metrics.jsonl").open()]
    print(f"train: {killed} SIGKILLs; {last}, {len(different)} variables differ")
    assert (step, different) == (last, []) and rows == sorted(rows)


def test_export(trained, tmp_path):
    flags = [f"--workdir={trained[0]}", "--checkpoint=last"]
    seconds, _ = run_timed("export", [*flags, f"--output={tmp_path / 'whole.zip'}"])
    path = tmp_path / "killed.zip"
    num_killed = num_whole = 0
    for i in range(NUM_KILLS):
        process = start("-m", "universal_embedding", "export", *flags, f"--output={path}")
        time.sleep(seconds * (0.4 + 0.6 * i / NUM_KILLS))
        num_killed += process.poll() is None
        process.kill()
        finish(process)
        if path.exists():  # whole, though perhaps without its card
            assert Embedder.from_pretrained(path).embedding_dim == 4
            num_whole += 1
            for file in tmp_path.glob("killed.zip*"):
                file.unlink()
    run_timed("export", [*flags, f"--output={path}"])
    fingerprints = [Embedder.from_pretrained(p).fingerprint for p in (path, tmp_path / "whole.zip")]
    print(f"export: {num_killed} SIGKILLs, {num_whole} whole zips")
    assert fingerprints[0] == fingerprints[1]
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {
        f"{n}.zip{s}" for n in ("killed", "whole") for s in ("", ".card.json", ".card.md")
    }

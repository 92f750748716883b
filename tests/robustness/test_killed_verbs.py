"""Verbs that are killed again and again end with what an undisturbed call gives."""

import contextlib
import json
import shutil
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.helpers.cluster import free_addresses, kill_all, start_host
from tests.helpers.corrupt_images import corrupt_images
from tests.helpers.processes import finish, kill_when, run_cli, start
from tests.helpers.tiny_model import export_tiny_model
from universal_embedding.app.index_files import IndexFiles
from universal_embedding.datasets.records import Records
from universal_embedding.export.embedder import Embedder

pytestmark = pytest.mark.robustness
NUM_KILLS = 20
STEPS = 1500  # each kill comes some ten steps after the one before
CONFIG = """
from universal_embedding.training.config import base_config, stage

def get_config(steps):
    config = base_config()
    config.data.dataset = "folder"
    config.data.batch_size = 8
    config.model.backbone = "small"
    config.model.image_size = 32
    config.model.embedding_dim = 4
    config.log_every_steps = config.evals.val.every_steps = 50
    config.checkpoint_every_steps = 10
    config.stages = (stage(steps=int(steps), backbone_lr=1e-2, projection_lr=1e-2, head_lr=1e-2),)
    return config
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Six classes of 30 images, and 60 corrupt ones."""
    folder = tmp_path_factory.mktemp("killed") / "photos"
    for c in range(6):
        (folder / f"class{c}").mkdir(parents=True)
        for i in range(30):
            pixels = np.random.default_rng([c, i]).integers(40 * c, 256, (96, 96, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"class{c}" / f"{i}.png")
    for name, data in corrupt_images(60, seed=5):
        (folder / "class0" / name).write_bytes(data)
    return folder


def kill_repeatedly(verb, flags, conditions, after_call=lambda was_killed: None):
    """Starts a verb again and again and kills it `NUM_KILLS` times.

    Args:
        verb: The verb.
        flags: Its flags.
        conditions: Makes, when a call starts, one function for each moment at which to kill: it
            tells whether the moment has come. They take turns.
        after_call: Called after each call; one that ended before its kill does not count.
    """
    num_killed = 0
    for attempt in range(3 * NUM_KILLS):
        moments = conditions()
        process = start("-m", "universal_embedding", verb, *flags)
        was_killed = kill_when(process, moments[attempt % len(moments)])
        num_killed += was_killed
        after_call(was_killed)
        if num_killed == NUM_KILLS:
            return
    raise AssertionError(f"{verb} ended by itself before {NUM_KILLS - num_killed} of the kills")


def run_verb(verb, flags):
    code, out, err = run_cli(verb, *flags)
    assert code == 0, err[-3000:]
    return out


def size_below(folder, pattern="*"):
    """Bytes of the files below a folder that a running process may change."""
    total = 0
    for path in folder.rglob(pattern):
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total


def is_there(folder, *patterns):
    """A moment: all of these files exist, which were not there when the call started."""
    before = [set(folder.glob(pattern)) for pattern in patterns]
    return lambda: all(
        set(folder.glob(pattern)) - old for pattern, old in zip(patterns, before, strict=True)
    )


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
    expected = run_verb("prepare", [*flags, f"--data_dir={tmp_path / 'whole'}"])
    folder = tmp_path / "killed/folder/photos/3.0.0"

    def conditions():
        before = size_below(folder, "*.partial")
        return [
            is_there(folder, "work/plan.json"),
            lambda: size_below(folder, "*.partial") > before,
            lambda: size_below(folder, "*.partial") > before + 1_000_000,
            is_there(folder, "*.tfrecord-*"),
            is_there(folder, "records-*.npz"),
            is_there(folder, "dataset_info.json"),
        ]

    def start_over_if_done(was_killed):
        if not was_killed:
            shutil.rmtree(folder)

    flags_killed = [*flags, f"--data_dir={tmp_path / 'killed'}"]
    kill_repeatedly("prepare", flags_killed, conditions, start_over_if_done)
    table = run_verb("prepare", [*flags_killed, "--verify"])
    print(f"prepare: {NUM_KILLS} SIGKILLs, then whole and verified\n{expected}{table}")
    assert read_records(tmp_path / "killed") == read_records(tmp_path / "whole")
    skipped = (folder / "skipped.jsonl").read_text().splitlines()
    splits = [Records(folder, "photos", s) for s in ("train", "val", "test")]
    assert sum(map(len, splits)) + len(skipped) == 6 * 30 + 60


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return export_tiny_model(tmp_path_factory.mktemp("model"))[0]


def test_index(images, model, tmp_path):
    flags = [f"--model={model}", f"--images={images}", "--batch_size=4"]
    run_verb("index", [*flags, f"--output={tmp_path / 'whole'}"])
    whole, directory, num_read = IndexFiles.read(tmp_path / "whole"), tmp_path / "killed", 0

    def conditions():
        started, delay = is_there(directory, ".lock"), time.monotonic

        def embedding(begun=[]):  # noqa: B006 - the moment when the work began
            begun += [delay()] if started() and not begun else []
            return begun and delay() - begun[0] > 0.3

        patterns = (".images-*", "images-*.json", ".embeddings-*", "embeddings-*", ".index.json*")
        return [embedding, *(is_there(directory, pattern) for pattern in patterns)]

    def read(was_killed):
        nonlocal num_read
        if (directory / "index.json").exists():
            files = IndexFiles.read(directory)  # the one before, or the new one
            assert files.names == whole.names
            num_read += 1
        elif was_killed and (directory / ".lock").exists():
            (directory / ".lock").unlink()  # so that its return tells the start of the work

    kill_repeatedly("index", [*flags, f"--output={directory}"], conditions, read)
    run_verb("index", [*flags, f"--output={directory}"])
    actual = IndexFiles.read(directory)
    print(
        f"index: {NUM_KILLS} SIGKILLs, after {num_read} of them a whole index; "
        f"{len(actual.names)} images, {len(actual.corrupt)} unreadable"
    )
    assert actual.names == whole.names and actual.corrupt == whole.corrupt
    np.testing.assert_array_equal(actual.embeddings, whole.embeddings)
    assert len(actual.names) + len(actual.corrupt) == 6 * 30 + 60
    assert len(list(directory.iterdir())) == 4  # with the lock, and no leftovers


def test_embed(images, model, tmp_path):
    flags = [f"--model={model}", f"--images={images}", "--images_per_part=4", "--batch_size=4"]
    run_verb("embed", [*flags, f"--output={tmp_path / 'whole'}"])
    directory = tmp_path / "killed"

    def conditions():
        patterns = ("part-*.npy", ".part-*.parquet.*", "part-*.parquet", ".part-*.npy.*")
        return [is_there(directory, pattern) for pattern in patterns]

    kill_repeatedly("embed", [*flags, f"--output={directory}"], conditions)
    run_verb("embed", [*flags, f"--output={directory}"])
    contents = [
        {p.name: p.read_bytes() for p in sorted(d.iterdir())}
        for d in (tmp_path / "whole", directory)
    ]
    print(f"embed: {NUM_KILLS} SIGKILLs; {len(contents[0])} files, equal in every byte")
    assert contents[0] == contents[1] and len(contents[0]) == 2 * 60 + 2


@pytest.fixture(scope="module")
def run_flags(images, tmp_path_factory):
    """Makes the flags of a training, except --workdir, from its number of steps."""
    folder = tmp_path_factory.mktemp("config")
    (folder / "config.py").write_text(CONFIG)
    data_dir = f"--data_dir={folder / 'records'}"
    run_verb("prepare", [f"--manual_dir={images}", "--dataset=folder", "--skip_corrupt", data_dir])
    return lambda steps: [f"--config={folder / 'config.py'}:{steps}", data_dir, "--deterministic"]


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
    run_verb("train", [*run_flags(STEPS), f"--workdir={workdir}"])
    return workdir


def checkpoint_moments(workdir):
    """As soon as there is something of a new checkpoint, and when it is complete."""
    last = workdir / "checkpoints/last"
    return [is_there(last, "*step-*"), is_there(last, "step-*.index")]


def compare_runs(name, whole, killed):
    (step, expected), (last, actual) = state_of(whole), state_of(killed)
    different = [name for name in expected if not np.array_equal(expected[name], actual[name])]
    rows = [json.loads(x)["step"] for x in (killed / "metrics.jsonl").open()]
    print(f"{name}: {NUM_KILLS} SIGKILLs; {last}, {len(different)} variables differ")
    assert (step, different) == (last, []) and rows == sorted(rows)


def test_train(run_flags, trained, tmp_path):
    flags = [*run_flags(STEPS), f"--workdir={tmp_path / 'killed'}"]
    kill_repeatedly("train", flags, lambda: checkpoint_moments(tmp_path / "killed"))
    run_verb("train", flags)
    compare_runs("train, one worker", trained, tmp_path / "killed")


def test_train_with_two_workers(run_flags, tmp_path):
    flags = [*run_flags(STEPS // 2), "--strategy=multi_worker"]
    arguments = ["-m", "universal_embedding", "train", *flags]

    def start_both(workdir):
        addresses = free_addresses(2)
        return [
            start_host(addresses, i, *arguments, f"--workdir={tmp_path / workdir}") for i in (0, 1)
        ]

    def run_both(workdir):
        for code, _, err in map(finish, start_both(workdir)):
            assert code == 0, err[-3000:]

    run_both("whole")
    for kill in range(NUM_KILLS):
        workers = start_both("killed")
        try:
            moments = checkpoint_moments(tmp_path / "killed")
            assert kill_when(workers[kill % 2], moments[kill // 2 % 2]), "it ended by itself"
        finally:
            kill_all(workers)
    run_both("killed")
    compare_runs("train, two workers", tmp_path / "whole", tmp_path / "killed")


def test_export(trained, tmp_path):
    flags = [f"--workdir={trained}", "--checkpoint=last"]
    run_verb("export", [*flags, f"--output={tmp_path / 'whole.zip'}"])
    path, num_whole = tmp_path / "killed.zip", 0

    def check(was_killed):
        nonlocal num_whole
        if path.exists():  # whole, with its cards
            assert len(list(tmp_path.glob("killed.zip*"))) == 3
            assert Embedder.from_pretrained(path).embedding_dim == 4
            num_whole += 1
            for file in tmp_path.glob("killed.zip*"):
                file.unlink()

    def conditions():
        patterns = (".killed*", ".killed.zip.c*", "killed.zip", "killed.zip.card.json")
        return [is_there(tmp_path, pattern) for pattern in patterns]

    kill_repeatedly("export", [*flags, f"--output={path}"], conditions, check)
    run_verb("export", [*flags, f"--output={path}"])
    fingerprints = [Embedder.from_pretrained(p).fingerprint for p in (path, tmp_path / "whole.zip")]
    print(f"export: {NUM_KILLS} SIGKILLs, after {num_whole} of them a whole zip")
    assert fingerprints[0] == fingerprints[1]
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {
        f"{n}.zip{s}" for n in ("killed", "whole") for s in ("", ".card.json", ".card.md")
    }

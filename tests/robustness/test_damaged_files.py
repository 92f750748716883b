"""Damaged, torn and interrupted files: one line or the right content, and nothing whole is lost."""

import errno
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.damage import damage_each
from tests.helpers.image_folder import MeanColorModel, draw_color, write_color_folder
from universal_embedding import cli
from universal_embedding.app.image_index import ImageIndex
from universal_embedding.app.index_files import IndexFiles
from universal_embedding.app.index_update import update_index
from universal_embedding.datasets.lock import hold_lock
from universal_embedding.errors import UserError
from universal_embedding.files import atomic_directory, atomic_write
from universal_embedding.kaggle import leaderboard
from universal_embedding.training.checkpoints import Checkpoints
from universal_embedding.training.config import base_config
from universal_embedding.training.metric_writer import read_rows
from universal_embedding.training.run_directory import read_config, write_config

ENTRY = {"date": "2026-11-24", "name": "a.zip", "fingerprint": "f", "solution": "s"}
SCORES = {"private": 0.5, "public": 0.5, "total": 0.5}


@pytest.fixture
def folder(tmp_path):
    return write_color_folder(tmp_path / "images")


def test_damaged_index_is_one_line(folder, tmp_path):
    ImageIndex.build(MeanColorModel(), folder).save(tmp_path / "i")
    files = sorted((tmp_path / "i").iterdir())
    tried, refused = damage_each(
        files, lambda: IndexFiles.read(tmp_path / "i"), random.Random(0), 40
    )
    assert tried == 120 and refused > 60


def test_update_keeps_other_files_of_its_folder_and_follows_links(folder, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "i").symlink_to("real")
    update_index(tmp_path / "i", folder, MeanColorModel())
    (tmp_path / "real/notes.txt").write_text("precious")
    draw_color("red", 99).save(folder / "red/new.png")
    update_index(tmp_path / "i", folder, MeanColorModel())
    assert (tmp_path / "i").is_symlink() and (tmp_path / "i/notes.txt").read_text() == "precious"
    assert len(list((tmp_path / "real").glob("embeddings-*.npy"))) == 1


def test_images_of_a_folder_that_cannot_be_listed_stay_indexed(folder, tmp_path, monkeypatch):
    update_index(tmp_path / "i", folder, MeanColorModel())
    scandir = os.scandir

    def fail(path):
        if str(path).endswith("/red"):
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail)
    model = MeanColorModel()
    index, update = update_index(tmp_path / "i", folder, model)
    assert (update.removed, update.unchanged, model.num_embedded) == (0, 12, 0)
    assert "Permission denied" in index.corrupt["red/"]


def save_again_and_again(directory, folder, model_name):
    files = IndexFiles.read(directory)
    while True:
        files.write(directory)


def test_reader_never_sees_a_mixture_and_killed_writers_leave_an_index(folder, tmp_path):
    ImageIndex.build(MeanColorModel(), folder).save(tmp_path / "i")
    expected = IndexFiles.read(tmp_path / "i")
    context = multiprocessing.get_context("fork")
    for round_ in range(5):
        writer = context.Process(
            target=save_again_and_again, args=(tmp_path / "i", folder, "model"), daemon=True
        )
        writer.start()
        end = time.monotonic() + 0.2 + 0.013 * round_
        while time.monotonic() < end:
            files = IndexFiles.read(tmp_path / "i")
            assert files.names == expected.names
            np.testing.assert_array_equal(files.embeddings, expected.embeddings)
        writer.kill()
        writer.join()
        assert IndexFiles.read(tmp_path / "i").names == expected.names
    expected.write(tmp_path / "i")
    assert len(list((tmp_path / "i").iterdir())) == 3  # and nothing that a killed writer left


@pytest.mark.parametrize("num_files", [1, 2])
def test_index_that_was_killed_before_its_first_version_is_made_anew(folder, tmp_path, num_files):
    ImageIndex.build(MeanColorModel(), folder).save(tmp_path / "i")
    (tmp_path / "i/index.json").unlink()
    for path in sorted((tmp_path / "i").iterdir())[num_files:]:
        path.rename(path.with_name(f".{path.name}.elsewhere-1-0123abcd.partial"))
    _, update = update_index(tmp_path / "i", folder, MeanColorModel())
    assert update.added == 12 and len(IndexFiles.read(tmp_path / "i").names) == 12
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("precious")
    with pytest.raises(UserError, match="holds no index"):
        update_index(tmp_path / "other", folder, MeanColorModel())


def test_second_writer_is_told_who_the_first_is(tmp_path, folder):
    (tmp_path / "i").mkdir()
    message = f"in use by another run .*process {os.getpid()}"
    lock = hold_lock(tmp_path / "i" / ".lock", tmp_path / "i")
    with lock, pytest.raises(UserError, match=message):
        update_index(tmp_path / "i", folder, MeanColorModel())
    update_index(tmp_path / "i", folder, MeanColorModel())


def test_atomic_directory_replaces_nothing(tmp_path):
    (tmp_path / "model").mkdir()
    with atomic_directory(tmp_path / "model") as partial:
        (partial / "a").write_text("x")
    with pytest.raises(UserError, match="already exists"), atomic_directory(tmp_path / "model"):
        pass
    late = atomic_directory(tmp_path / "late")
    with pytest.raises(UserError, match="already exists"), late:
        (tmp_path / "late").mkdir()
        (tmp_path / "late/thesis.txt").write_text("precious")
    assert (tmp_path / "late/thesis.txt").read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["late", "model"]


def test_leftovers_of_killed_writers_are_removed(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from universal_embedding.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as file:\n"
        "    file.write('half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.txt")])
        assert done.returncode == -signal.SIGKILL
        assert len(list(tmp_path.iterdir())) == 1
    with atomic_write(tmp_path / "a.txt") as file:
        file.write("whole")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.fixture
def run(tmp_path):
    """Three checkpoints of one variable, whose value is the step."""
    variable = tf.Variable(np.zeros(5000, np.float32))
    checkpoints = Checkpoints(tmp_path, {"model": [variable]}, background=False)
    for step in (1, 2, 3):
        variable.assign(np.full(5000, step, np.float32))
        checkpoints.save(step)
    checkpoints.wait()
    return tmp_path, variable


@pytest.mark.parametrize("part", [0, 1, 1000, 0.25, 0.5, 0.75, -1])
def test_truncated_checkpoint_is_passed_over(run, part):
    workdir, variable = run
    path = workdir / "checkpoints/last/step-3.data-00000-of-00001"
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data)) if 0 < part < 1 else part])
    assert Checkpoints(workdir, {"model": [variable]}).restore_newest().endswith("step-2")
    assert variable.numpy()[0] == 2


@pytest.mark.parametrize("content", [b"", b"\xff\xfe garbage", b"model_checkpoint_path: 3", None])
def test_damaged_state_file_is_rebuilt(run, content):
    workdir, variable = run
    path = workdir / "checkpoints/last/checkpoint"
    path.unlink() if content is None else path.write_bytes(content)
    (workdir / "checkpoints/last/step-9_temp").mkdir()
    checkpoints = Checkpoints(workdir, {"model": [variable]}, background=False)
    assert checkpoints.restore_newest().endswith("step-3")
    checkpoints.save(4)
    checkpoints.wait()
    names = sorted(p.name for p in path.parent.glob("step-*"))
    assert [n for n in names if n.endswith("index")] == [f"step-{i}.index" for i in (2, 3, 4)]
    assert "step-9_temp" not in names


def test_no_flipped_bit_changes_the_config_of_a_run(tmp_path):
    write_config(tmp_path, base_config(), {"data_dir": "data"})
    path, rng = tmp_path / "config.json", random.Random(0)
    whole, content, num_refused = path.read_bytes(), read_config(tmp_path), 0
    for _ in range(3000):
        place, flipped = rng.randrange(len(whole)), bytearray(whole)
        flipped[place] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        try:  # only white space and the name of the checksum may change unnoticed
            assert {k: v for k, v in read_config(tmp_path).items() if k in content} == content
        except UserError:
            num_refused += 1
    assert num_refused > 2000
    path.write_bytes(whole)
    assert read_config(tmp_path) == content


def test_damaged_rows_of_metrics_are_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "a": 2}\n5\n{}\n\xff\n[1]\n{"step": 2}\n{"step": 3, "a"')
    assert read_rows(path) == [{"step": 1, "a": 2}, {"step": 2}]
    assert read_rows(tmp_path / "none") == []


@pytest.mark.parametrize(
    "tail", [b'{"date": "2026', b"\xef\xbb\xbf", b"\n\n", b"\xff\xfe\n", b"{}\n"]
)
def test_score_survives_a_damaged_leaderboard(tail, tmp_path):
    board = tmp_path / "board.jsonl"
    leaderboard.append(board, ENTRY | SCORES)
    with board.open("ab") as file:
        file.write(tail)
    leaderboard.append(board, ENTRY | SCORES | {"fingerprint": "g", "private": 0.7})
    ranking = leaderboard.ranking(board, "s")
    assert [entry["fingerprint"] for entry in ranking] == ["g", "f"]


def test_leaderboard_that_cannot_be_written_fails_before_the_work(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "solution.csv").write_text("id,images,Usage\n")
    for path in (tmp_path / "folder", tmp_path / "solution.csv", tmp_path / "none" / "b.jsonl"):
        with pytest.raises(UserError, match="--leaderboard"):
            leaderboard.check_writable(path)
    assert (tmp_path / "solution.csv").read_text() == "id,images,Usage\n"


def test_entries_of_many_writers_are_whole(tmp_path):
    def write(i):
        for j in range(20):
            entry = {"fingerprint": f"{i}-{j}", "config": "x" * 20_000}
            leaderboard.append(tmp_path / "b.jsonl", ENTRY | SCORES | entry)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(leaderboard.ranking(tmp_path / "b.jsonl", "s")) == 80


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
@pytest.mark.parametrize("wrap", [False, True])
def test_disk_that_refuses_is_one_line(code, wrap, capsys, monkeypatch):
    def fail(args):
        error = OSError(code, os.strerror(code), "out\n/put")
        raise RuntimeError(f"write() failed: {os.strerror(code)}") if wrap else error

    monkeypatch.setattr("universal_embedding.commands.index.run", fail)
    with pytest.raises(SystemExit) as exit_:
        cli.main(["index", "--model=m", "--images=i", "--output=o"])
    err = capsys.readouterr().err
    assert exit_.value.code == 1 and err.startswith("error: ") and err.count("\n") == 1
    assert os.strerror(code) in err


def test_full_disk_keeps_what_was_whole(small_disk):
    with atomic_write(small_disk / "a.txt") as file:
        file.write("whole")
    with pytest.raises(OSError, match="No space left"), atomic_write(small_disk / "a.txt") as file:
        file.write("x" * 200_000)
    assert (small_disk / "a.txt").read_text() == "whole"
    assert [p.name for p in small_disk.iterdir()] == ["a.txt"]


def test_json_of_a_report_that_is_none_is_one_line(tmp_path):
    from universal_embedding.export.model_card import read_report

    for content in ('{"dataset": 1}', "[]", "[" * 100_000, "{"):
        (tmp_path / "report.json").write_text(content)
        with pytest.raises(UserError, match="is not a report"):
            read_report(tmp_path / "report.json")
    with pytest.raises(UserError):
        read_report(Path("/nonexistent/report.json"))

"""Thousands of damaged images through the verbs: each is kept or named, by all of them alike."""

import json
import os
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tests.helpers.corrupt_images import corrupt_images
from tests.helpers.tiny_model import export_tiny_model
from universal_embedding import cli
from universal_embedding.app.image_index import ImageIndex
from universal_embedding.datasets.records import list_splits, open_records
from universal_embedding.datasets.writer import read_skipped_images
from universal_embedding.errors import UserError
from universal_embedding.kaggle import score
from universal_embedding.kaggle.competition import Solution, read_predictions, write_solution

NUM_CLASSES = 20


@pytest.fixture
def run(capfd):
    """Runs a verb in this process; exit code, stdout and stderr."""

    def run_verb(verb, *flags):
        with pytest.raises(SystemExit) as exit_:
            cli.main([verb, *map(str, flags)])
        return exit_.value.code, *capfd.readouterr()

    return run_verb


@pytest.fixture(
    params=[
        pytest.param(200, id="some"),
        pytest.param(10_000, id="10000", marks=pytest.mark.robustness),
    ]
)
def images(request, tmp_path):
    """Folder and names of damaged images, in twenty classes; a few are whole."""
    folder, names = tmp_path / "photos", set()
    for c in range(NUM_CLASSES):
        (folder / f"c{c:02}").mkdir(parents=True)
    for i, (name, data) in enumerate(corrupt_images(request.param, seed=request.param)):
        names.add(f"c{i % NUM_CLASSES:02}/{name}")
        (folder / f"c{i % NUM_CLASSES:02}" / name).write_bytes(data)
    return folder, names


def test_every_image_is_kept_or_named_by_every_verb(images, run, tmp_path, capfd):
    folder, names = images
    kept, lines = {}, []

    def check(verb, kept_names, named):
        kept[verb] = set(kept_names)
        assert len(kept_names) + len(named) == len(names)
        assert kept[verb] | set(named) == names
        lines.append(f"{verb}: {len(names)} tried, {len(named)} named, {len(kept[verb])} kept")

    flags = ("--dataset=folder", f"--manual_dir={folder}", f"--data_dir={tmp_path / 'data'}")
    code, _, err = run("prepare", *flags)
    assert code == 1 and "cannot be used" in err and "Traceback" not in err  # without the flag
    code, out, err = run("prepare", *flags, "--skip_corrupt", "--verify")
    assert code == 0 and "Traceback" not in err
    opened = [
        open_records(tmp_path / "data", "folder", "photos", split)
        for split in list_splits(tmp_path / "data", "folder", "photos")
    ]
    skipped = [path for _, path, reason in read_skipped_images(opened[0].folder) if reason]
    check("prepare", [i for records in opened for i in records.image_ids], skipped)
    assert f"{len(names) - len(skipped):,} images verified" in out

    model, _ = export_tiny_model(tmp_path)
    index = ("index", f"--model={model}", f"--images={folder}", f"--output={tmp_path / 'index'}")
    code, out, err = run(*index)
    assert code == 0 and "Traceback" not in err
    check(
        "index", ImageIndex.load(tmp_path / "index").names, re.findall("unreadable: (.*?): ", out)
    )

    report = tmp_path / "report.json"
    evaluate = ("evaluate-index", f"--index={tmp_path / 'index'}", f"--report={report}")
    code, _, err = run(*evaluate, f"--montage={tmp_path / 'montage.png'}")
    assert code == 0 and "Traceback" not in err
    numbers = json.loads(report.read_text())
    assert numbers["num_images"] + numbers["num_singletons"] == len(kept["index"])
    lines.append(f"evaluate-index: {len(kept['index'])} searched, none of the named")

    output = tmp_path / "embeddings"
    code, _, err = run("embed", f"--model={model}", f"--images={folder}", f"--output={output}")
    assert code == 0 and "Traceback" not in err
    paths = sorted(output.glob("part-*.parquet"))
    table = pyarrow.concat_tables([pyarrow.parquet.read_table(path) for path in paths])
    errors = dict(zip(table["name"].to_pylist(), table["error"].to_pylist(), strict=True))
    named = [name for name, error in errors.items() if error]
    check("embed", [name for name in errors if name not in set(named)], named)

    scored = write_competition(tmp_path, folder, kept["prepare"])
    flags = [f"--submission={model}", f"--solution={scored / 'solution.csv'}", "--batch_size=32"]
    predictions = f"--predictions={tmp_path / 'predictions.csv'}"
    dirs = [f"--query_dir={scored / 'query'}", f"--index_dir={folder}"]
    code, _, err = run("score", *flags, *dirs, predictions)
    assert code == 1 and any(f"{folder / name} cannot be decoded" in err for name in named)
    dirs[1] = f"--index_dir={scored / 'index'}"
    code, out, err = run("score", *flags, *dirs, predictions)
    assert code == 0 and "mP@5" in out and "Traceback" not in err
    queries = read_predictions(tmp_path / "predictions.csv")
    refused = [name for name in names if is_refused(folder / name)]
    by_stem = {Path(name).stem: name for name in names}
    check("score", [by_stem[query] for query in queries], refused)

    assert len({frozenset(group) for group in kept.values()}) == 1
    with capfd.disabled():
        print("", *lines, sep="\n")


def write_competition(tmp_path, folder, kept):
    """Every whole image is a query and in the index; its class is relevant to it."""
    classes = {}
    for name in sorted(kept):
        path = folder / name
        classes.setdefault(path.parent.name, []).append(path.stem)
        for part in ("query", "index"):
            (tmp_path / "scored" / part).mkdir(parents=True, exist_ok=True)
            os.link(path, tmp_path / "scored" / part / path.name)
    images = {stem: tuple(stems) for stems in classes.values() for stem in stems}
    usage = dict.fromkeys(images, "Public")
    write_solution(tmp_path / "scored" / "solution.csv", Solution(images, usage))
    return tmp_path / "scored"


def is_refused(path):
    """Whether `score` names the image before any model sees it."""
    try:
        list(score._decode([path]))
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return True
    return False

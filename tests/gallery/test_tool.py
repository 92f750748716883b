import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*words):
    return subprocess.run(
        [sys.executable, "tools/search.py", *map(str, words)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "index, query, evaluate, serve"),
        (["find"], "index, query, evaluate, serve"),
        (["index", "--gallery=x", "--output=y"], "--saved_model is missing"),
        (["index", "--image=x"], "--image has no meaning for index"),
        (["query", "--index=absent", "--image=README.none"], "cannot be read (No such file"),
        (["evaluate", "--index=absent"], "absent holds no index"),
    ],
)
def test_wrong_words_are_one_line(words, reason):
    done = run(*words)
    assert done.returncode == 1 and reason in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_real_model_from_folder_to_sheet(folder, tmp_path):
    import keras

    from universal_embedding.export import submission
    from universal_embedding.models.embedder import Embedder

    zips = []
    for seed in (0, 1):
        keras.utils.set_random_seed(seed)
        inputs = keras.Input([16, 16, 3])
        features = keras.layers.Flatten()(keras.layers.AveragePooling2D(4)(inputs / 127.5 - 1.0))
        embedder = Embedder(keras.Model(inputs, features), 64, 16)
        zips.append(tmp_path / f"{seed}.zip")
        submission.write(embedder, zips[-1])
    (folder / "red" / "broken.png").write_bytes(b"")
    index = tmp_path / "index"
    made = run("index", f"--saved_model={zips[0]}", f"--gallery={folder}", f"--output={index}")
    assert made.returncode == 0, made.stderr
    assert "broken: red/broken.png" in made.stdout and "12 new" in made.stdout

    image = folder / "green" / "2.png"
    query = ("query", f"--index={index}", f"--image={image}")
    found = run(*query, "--k=3", f"--sheet={tmp_path}/sheet.png")
    lines = found.stdout.splitlines()
    assert lines[0] == "0.0000  green/2.png" and len(lines) == 4
    assert (tmp_path / "sheet.png").is_file()
    assert len(run(*query, "--sort_all").stdout.splitlines()) == 12
    refused = run(*query, f"--saved_model={zips[1]}")
    assert refused.returncode == 1 and "did not make this index" in refused.stderr

    done = run("evaluate", f"--index={index}", f"--report={tmp_path}/report.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "report.json").read_text())["pictures"] == 12

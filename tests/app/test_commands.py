"""The verbs index, query, evaluate-index and serve as programs."""

import json

import pytest

from tests.helpers.processes import run_cli


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["index", "--images=x", "--output=y"], "give --model and --images, or --embeddings"),
        (["index", "--model=m", "--images=x", "--output=y", "--image=x"], "no flag --image"),
        (
            ["index", "--model=m", "--images=x", "--output=y", "--dtype=int8"],
            "--dtype has no effect",
        ),
        (["query", "--index=absent", "--image=README.none"], "the file is missing"),
        (["query", "--index=absent", "--image=x", "--k=0"], "0 is below 1"),
        (["evaluate-index", "--index=absent"], "absent holds no index"),
        (["serve", "--index=absent", "--port=70000"], "is not a port"),
    ],
)
def test_a_mistake_is_one_line(words, reason):
    code, _, err = run_cli(*words)
    assert code == 1 and reason in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_from_folder_to_montage_with_a_real_model(folder, tmp_path):
    from tests.helpers.tiny_model import build_model
    from universal_embedding.export.zip_archive import write_submission

    model, other = tmp_path / "model.zip", tmp_path / "other.zip"
    for seed, path in enumerate((model, other)):
        write_submission(build_model(seed=seed), path)
    (folder / "red" / "corrupt.png").write_bytes(b"")
    index = tmp_path / "index"
    code, out, err = run_cli("index", f"--model={model}", f"--images={folder}", f"--output={index}")
    assert code == 0, err
    assert "unreadable: red/corrupt.png" in out and "12 new" in out

    query = ("query", f"--index={index}", f"--image={folder / 'green' / '2.png'}")
    _, out, _ = run_cli(*query, "--k=3", f"--montage={tmp_path}/montage.png")
    lines = out.splitlines()
    assert lines[0] == "0.0000  green/2.png" and len(lines) == 4
    assert (tmp_path / "montage.png").is_file()
    assert len(run_cli(*query, "--all")[1].splitlines()) == 12
    code, _, err = run_cli(*query, f"--model={other}")
    assert code == 1 and "did not make this index" in err

    report = tmp_path / "report.json"
    code, _, err = run_cli("evaluate-index", f"--index={index}", f"--report={report}")
    assert code == 0, err
    assert json.loads(report.read_text())["num_images"] == 12

"""Wrong data is not taken for right: other folders, odd class names, paths out of their root."""

import os

import pytest

from tests.helpers.image_folder import MeanColorModel, draw_color
from universal_embedding import cli
from universal_embedding.app.image_index import ImageIndex
from universal_embedding.app.index_files import IndexFiles
from universal_embedding.app.index_update import update_index
from universal_embedding.datasets.prepare import make_builder, prepare, summarize
from universal_embedding.datasets.uned import read_info_file
from universal_embedding.datasets.writer import read_skipped_images
from universal_embedding.errors import UserError
from universal_embedding.kaggle import score
from universal_embedding.kaggle.competition import (
    Solution,
    read_predictions,
    read_solution,
    write_solution,
)
from universal_embedding.kaggle.score import find_images


def write_folder(root, num_classes=4, color="red"):
    for c in range(num_classes):
        (root / f"c{c}").mkdir(parents=True)
        for i in range(2):
            draw_color(color, 10 * c + i).save(root / f"c{c}" / f"{i}.png")
    return root


def make_folder_builder(tmp_path, root, csv="", **kwargs):
    return make_builder(
        "folder", root.name, {"csv": str(csv)}, data_dir=tmp_path / "data", **kwargs
    )


def test_other_or_changed_folder_is_not_already_prepared(tmp_path):
    first, other = (write_folder(tmp_path / d / "photos", n) for d, n in (("a", 4), ("b", 5)))
    assert prepare(make_folder_builder(tmp_path, first), first)
    assert prepare(make_folder_builder(tmp_path, first), first) == ""
    with pytest.raises(UserError, match=r"prepared from other images than those of .*b/photos"):
        prepare(make_folder_builder(tmp_path, other), other)
    os.rename(first, tmp_path / "moved")  # the same images elsewhere
    moved = tmp_path / "moved"
    assert prepare(make_folder_builder(tmp_path, first), moved) == ""
    draw_color("blue", 7).save(moved / "c0" / "new.png")
    with pytest.raises(UserError, match="other images"):
        prepare(make_folder_builder(tmp_path, first), moved)


@pytest.mark.parametrize("labels", ["1 01 001 3", "3 ٣ 1 2", "1 +1 2 4"])
def test_class_names_that_look_alike_stay_apart(tmp_path, labels):
    root = write_folder(tmp_path / "photos")
    file = tmp_path / "l.csv"
    splits = ("train", "train", "val", "test")
    rows = zip(range(4), labels.split(), splits, strict=True)
    file.write_text("path,label,split\n" + "".join(f"c{c}/0.png,{n},{s}\n" for c, n, s in rows))
    manifest = make_folder_builder(tmp_path, root, file).list_examples(root)
    assert sorted(manifest.class_names.values()) == sorted(labels.split())
    ids = [label for split in manifest.splits.values() for label in split.labels.values.tolist()]
    assert len(set(ids)) == 4


@pytest.mark.parametrize("path", ["/etc/hostname", "../secret.jpg", "a/../../b", "x\0y"])
def test_paths_of_a_csv_stay_in_the_folder(tmp_path, path):
    root = write_folder(tmp_path / "photos")
    (tmp_path / "l.csv").write_text(f"path,label,split\n{path},x,train\n")
    with pytest.raises(UserError):
        make_folder_builder(tmp_path, root, tmp_path / "l.csv").list_examples(root)


@pytest.mark.parametrize("content", ["path,label\ncaf\xe9.png,x\n".encode("latin-1"), b"\xff\xfea"])
def test_csv_that_is_not_utf8_is_one_line(tmp_path, content):
    root = write_folder(tmp_path / "photos")
    (tmp_path / "l.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"l\.csv"):
        make_folder_builder(tmp_path, root, tmp_path / "l.csv").list_examples(root)


def test_odd_names_and_dangling_links_are_skipped_and_counted(tmp_path):
    root = write_folder(tmp_path / "photos")
    odd = ["a\nb.png", "c\td.png", "e\u2028f.png", "caf\udce9.png"]
    for name in odd:
        draw_color("red", 3).save(root / "c0" / "tmp.png")
        (root / "c0" / "tmp.png").rename(root / "c0" / name)
    (root / "c1" / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(root / "c2" / "pipe.png")
    with pytest.raises(UserError, match="--skip_corrupt"):
        prepare(make_folder_builder(tmp_path, root), root)
    builder = make_folder_builder(tmp_path, root, skip_corrupt=True)
    assert prepare(builder, root)
    assert prepare(make_folder_builder(tmp_path, root, skip_corrupt=True), root) == ""
    skipped = {path for _, path, _ in read_skipped_images(builder.folder)}
    assert skipped == {*(f"c0/{name}" for name in odd), "c1/gone.png", "c2/pipe.png"}
    rows = summarize(tmp_path / "data", "folder", ["photos"])
    assert sum(row.num_images for row in rows) == 8


@pytest.mark.parametrize("class_id", ["9" * 30, "9" * 5000, "1.5", "true", "[1, 1e3]"])
def test_class_ids_out_of_range_are_one_line(tmp_path, class_id):
    file = tmp_path / "train.json"
    file.write_text(f'[{{"path": "a.jpg", "class_id": {class_id}}}]')
    with pytest.raises(UserError) as error:
        read_info_file(file)
    assert len(str(error.value)) < 500


def test_deep_json_is_one_line(tmp_path):
    (tmp_path / "train.json").write_text("[" * 200_000)
    with pytest.raises(UserError, match="not valid JSON"):
        read_info_file(tmp_path / "train.json")


@pytest.mark.parametrize("again", ["./c0/0.png", "c0//0.png", "c0/./0.png"])
def test_one_image_under_two_names_is_refused(tmp_path, again):
    root = write_folder(tmp_path / "photos")
    rows = f"path,label,split\nc0/0.png,x,train\n{again},x,test\n"
    (tmp_path / "l.csv").write_text(rows)
    with pytest.raises(UserError, match="which are one image"):
        make_folder_builder(tmp_path, root, tmp_path / "l.csv").list_examples(root)


def test_images_of_two_splits_are_counted(tmp_path, caplog):
    root = write_folder(tmp_path / "photos")
    rows = [f"c{c}/0.png,x,{split}" for c in range(3) for split in ("train", "test")]
    (tmp_path / "l.csv").write_text("\n".join(["path,label,split", *rows, "c0/1.png,x,test"]))
    make_folder_builder(tmp_path, root, tmp_path / "l.csv").list_examples(root)
    assert "3 images of split test" in caplog.text and "c0/0.png" in caplog.text


def test_index_without_queries_is_refused(tmp_path):
    root = write_folder(tmp_path / "photos", 10)
    for c in range(10):
        (root / f"c{c}" / "1.png").unlink()
    builder = make_builder("folder", "photos", {"index_fraction": 0.5}, data_dir=tmp_path / "data")
    with pytest.raises(UserError, match="leaves no queries"):
        builder.list_examples(root)


def test_class_of_any_size_survives_the_solution_file(tmp_path):
    images = {"query": tuple(f"image{i:011}" for i in range(20_000))}  # a field of 340 kB
    solution = Solution(images, {"query": "Public"})
    write_solution(tmp_path / "solution.csv", solution)
    assert read_solution(tmp_path / "solution.csv") == solution


def test_id_with_white_space_is_refused_because_it_would_be_two(tmp_path):
    draw_color("red", 1).save(tmp_path / "b c.jpg")
    with pytest.raises(UserError, match="white space in its id"):
        find_images(tmp_path)


def test_other_image_of_the_same_size_and_time_is_embedded_again(tmp_path):
    root = write_folder(tmp_path / "photos")
    update_index(tmp_path / "i", root, MeanColorModel())
    path = root / "c0" / "0.png"
    status, size = path.stat(), path.stat().st_size
    draw_color("blue", 5).save(path)
    path.write_bytes(path.read_bytes().ljust(size, b"\0")[:size])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == size and path.stat().st_mtime_ns == status.st_mtime_ns
    _, update = update_index(tmp_path / "i", root, MeanColorModel())
    assert update.changed + len(IndexFiles.read(tmp_path / "i").corrupt) == 1


@pytest.mark.parametrize(
    ("verb", "flags"),
    [
        ("score", ["--submission=s.zip", "--query_dir=q", "--index_dir=i", "--predictions"]),
        ("evaluate-index", ["--index=i", "--report"]),
        ("evaluate-index", ["--index=i", "--montage"]),
    ],
)
@pytest.mark.parametrize("place", ["file/out", "folder"])
def test_output_that_cannot_be_written_is_found_before_the_work(
    verb, flags, place, tmp_path, capsys, monkeypatch
):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    solution = Solution({"q": ("i",)}, {"q": "Public"})
    write_solution(tmp_path / "solution.csv", solution)
    monkeypatch.setattr(score, "score_submission", lambda *_: pytest.fail("it began"))
    monkeypatch.setattr(ImageIndex, "load", lambda *_: pytest.fail("it began"))
    more = [f"--solution={tmp_path / 'solution.csv'}"] if verb == "score" else []
    with pytest.raises(SystemExit):
        cli.main([verb, *more, *flags[:-1], f"{flags[-1]}={tmp_path / place}"])
    err = capsys.readouterr().err
    assert f"{flags[-1]}={tmp_path / place} cannot be written" in err and err.count("\n") == 1
    assert {p.name for p in tmp_path.iterdir()} <= {
        *("file", "folder", "solution.csv", ".leaderboard.jsonl.lock", "leaderboard.jsonl")
    }


def test_predictions_are_kept_when_the_leaderboard_fails(tmp_path, capsys, monkeypatch):
    write_solution(tmp_path / "s.csv", Solution({"q": ("i",)}, {"q": "Public"}))
    result = score.ScoringResult("s.zip", "f", {"q": ("i",)}, {})
    monkeypatch.setattr(score, "score_submission", lambda *_: result)

    def fail(*_):
        raise UserError("the disk is full")

    monkeypatch.setattr("universal_embedding.kaggle.leaderboard.append", fail)
    flags = ["--submission=s.zip", "--query_dir=q", "--index_dir=i"]
    with pytest.raises(SystemExit) as exit_:
        predictions = tmp_path / "p.csv"
        cli.main(
            ["score", *flags, f"--solution={tmp_path / 's.csv'}", f"--predictions={predictions}"]
        )
    out, err = capsys.readouterr()
    assert exit_.value.code == 1 and "1.000000 mP@5" in out and "the disk is full" in err
    assert read_predictions(predictions) == {"q": ("i",)}

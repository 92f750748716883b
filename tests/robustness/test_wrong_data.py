"""Wrong data is not taken for right: other folders, odd class names, paths out of their root."""

import os

import pytest

from tests.helpers.image_folder import draw_color
from universal_embedding.datasets.prepare import make_builder, prepare, summarize
from universal_embedding.datasets.uned import read_info_file
from universal_embedding.datasets.writer import read_skipped_images
from universal_embedding.errors import UserError


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

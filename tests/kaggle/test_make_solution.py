import pytest

from universal_embedding.errors import UserError
from universal_embedding.kaggle import competition, make_solution


def labeled_image(name, *labels):
    return make_solution.LabeledImage(name, frozenset(labels), lambda: b"\xff\xd8" + name.encode())


def test_split_puts_each_class_into_queries_and_index():
    sizes = (("a", 10), ("b", 2), ("c", 1))
    images = [labeled_image(f"{label}{i}", label) for label, n in sizes for i in range(n)]
    queries, index = make_solution.split_queries_and_index(images, 0.3)
    assert sorted(image.name[0] for image in queries) == ["a"] * 3 + ["b"]
    names = sorted(image.name for image in queries + index)
    assert names == sorted(image.name for image in images)
    assert (queries, index) == make_solution.split_queries_and_index(images[::-1], 0.3)


def test_competition_holds_images_and_solution(tmp_path):
    queries = [labeled_image(f"q{i}", "a") for i in range(40)]
    queries += [labeled_image("two", "a", "b"), labeled_image("lonely", "z")]
    index = [labeled_image("x", "a"), labeled_image("y", "b"), labeled_image("z", "c")]
    folder = tmp_path / "competition"
    solution = make_solution.write_competition(folder, queries, index, public_fraction=0.25)
    assert competition.read_solution(folder / "solution.csv") == solution
    assert len(solution.images) == 41
    ids = {image.name: image.id for image in queries + index}
    assert all(len(i) == 16 for i in ids.values())
    assert set(solution.images[ids["two"]]) == {ids["x"], ids["y"]}
    assert ids["lonely"] not in solution.images
    assert 3 < sum(usage == "Public" for usage in solution.usage.values()) < 20
    assert (folder / "index" / f"{ids['z']}.jpg").read_bytes().endswith(b"z")
    assert len(list((folder / "query").iterdir())) == 41
    with pytest.raises(UserError, match="already exists"):
        make_solution.write_competition(folder, queries, index)


def test_failed_competition_leaves_nothing_behind(tmp_path):
    def fail():
        raise UserError("the file is missing")

    queries = [make_solution.LabeledImage("q", frozenset("a"), fail)]
    with pytest.raises(UserError, match="the file is missing"):
        make_solution.write_competition(tmp_path / "c", queries, [labeled_image("x", "a")])
    assert not list(tmp_path.iterdir())


def test_from_folder_takes_classes_from_sub_folders(tmp_path):
    for name in ("cat/1.jpg", "cat/deep/2.PNG", "dog/1.jpg", "note.txt", "loose.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\xff\xd8")
    labels = {image.name: set(image.labels) for image in make_solution.from_folder(tmp_path)}
    assert labels == {"cat/1.jpg": {"cat"}, "cat/deep/2.PNG": {"cat"}, "dog/1.jpg": {"dog"}}
    with pytest.raises(UserError, match="no images"):
        make_solution.from_folder(tmp_path / "cat" / "deep")


def test_competition_without_relevant_images_is_refused(tmp_path):
    queries, index = [labeled_image("q", "a")], [labeled_image("x", "b")]
    with pytest.raises(UserError, match="no query"):
        make_solution.write_competition(tmp_path / "competition", queries, index)

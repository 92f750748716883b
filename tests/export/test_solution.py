import pytest

from universal_embedding.errors import UserError
from universal_embedding.export import competition, solution


def picture(name, *labels):
    return solution.Picture(name, frozenset(labels), lambda: b"\xff\xd8" + name.encode())


def test_each_class_asks_and_is_searched():
    pictures = [picture(f"{c}{i}", c) for c, n in (("a", 10), ("b", 2), ("c", 1)) for i in range(n)]
    queries, index = solution.divide(pictures, 0.3)
    assert sorted(p.name[0] for p in queries) == ["a"] * 3 + ["b"]
    assert sorted(p.name for p in queries + index) == sorted(p.name for p in pictures)
    assert (queries, index) == solution.divide(pictures[::-1], 0.3)


def test_written_folders_and_solution(tmp_path):
    queries = [picture(f"q{i}", "a") for i in range(40)]
    queries += [picture("two", "a", "b"), picture("lonely", "z")]
    index = [picture("x", "a"), picture("y", "b"), picture("z", "c")]
    made = solution.write(tmp_path / "own", queries, index, public=0.25)
    read = competition.read_solution(tmp_path / "own" / "solution.csv")
    assert read == made and len(made.images) == 41
    ids = {p.name: p.id for p in queries + index}
    assert all(len(i) == 16 for i in ids.values())
    assert set(made.images[ids["two"]]) == {ids["x"], ids["y"]}
    assert ids["lonely"] not in made.images
    assert 3 < sum(usage == "Public" for usage in made.usage.values()) < 20
    assert (tmp_path / "own" / "index" / f"{ids['z']}.jpg").read_bytes().endswith(b"z")
    assert len(list((tmp_path / "own" / "query").iterdir())) == 41
    with pytest.raises(UserError, match="already exists"):
        solution.write(tmp_path / "own", queries, index)


def test_labelled_folders(tmp_path):
    for name in ("cat/1.jpg", "cat/deep/2.PNG", "dog/1.jpg", "note.txt", "loose.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\xff\xd8")
    found = {p.name: set(p.labels) for p in solution.of_folder(tmp_path)}
    assert found == {"cat/1.jpg": {"cat"}, "cat/deep/2.PNG": {"cat"}, "dog/1.jpg": {"dog"}}
    with pytest.raises(UserError, match="no pictures"):
        solution.of_folder(tmp_path / "cat" / "deep")


def test_no_query_with_a_relevant_picture(tmp_path):
    with pytest.raises(UserError, match="no query"):
        solution.write(tmp_path / "own", [picture("q", "a")], [picture("x", "b")])

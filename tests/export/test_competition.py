import numpy as np
import pytest

from universal_embedding.errors import UserError
from universal_embedding.export import competition, scorer


def test_published_check_value():
    # Five queries scoring 0, 1/3, 4/5, 1, 0.
    solution = {
        "a": ("x1", "x2", "x3", "x4", "x5"),
        "b": ("x1", "x2", "x3"),
        "c": ("x1", "x2", "x3", "x4", "x5", "x6", "x7"),
        "d": ("x1",),
        "e": ("x1", "x2"),
    }
    predictions = {
        "a": ("y1", "y2", "y3", "y4", "y5"),
        "b": ("y1", "x3", "y2", "x1", "x2"),  # only the first three count
        "c": ("x1", "x2", "y1", "x3", "x7", "x4"),
        "d": ("x1", "y1", "y2"),
    }  # e has no prediction
    value = competition.mean_precision(predictions, solution)
    assert round(value, 6) == 0.426667


def test_a_duplicate_uses_its_rank_and_counts_nothing():
    solution = {"q": ("x1", "x2", "x3", "x4", "x5")}
    assert competition.mean_precision({"q": ("x1", "x1", "x1", "x2", "y", "x3")}, solution) == 0.4


def test_predicted_queries_must_have_a_solution():
    with pytest.raises(UserError, match="not in the solution"):
        competition.mean_precision({"p": ("x",)}, {"q": ("x",)})
    with pytest.raises(UserError, match="no relevant"):
        competition.mean_precision({"q": ("x",)}, {"q": ()})


def test_public_private_and_total(tmp_path):
    path = tmp_path / "solution.csv"
    path.write_text("id,images,Usage\na,x y,Public\nb,x,Private\nc,y,Private\n")
    solution = competition.read_solution(path)
    scores = competition.score({"a": ("x", "z"), "b": ("x",)}, solution)
    assert scores == {"public": 0.5, "private": 0.5, "total": 0.5}
    only_private = competition.Solution({"b": ("x",)}, {"b": "Private"})
    assert competition.score({"b": ("x",)}, only_private)["public"] is None


def test_files_come_back_as_written(tmp_path):
    solution = competition.Solution({"a": ("x", "y"), "b": ("z",)}, {"a": "Public", "b": "Private"})
    competition.write_solution(tmp_path / "s.csv", solution)
    assert competition.read_solution(tmp_path / "s.csv") == solution
    assert (tmp_path / "s.csv").read_text() == "id,images,Usage\na,x y,Public\nb,z,Private\n"
    competition.write_predictions(tmp_path / "p.csv", solution.images)
    assert competition.read_predictions(tmp_path / "p.csv") == solution.images


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,images\na,x\n", "no column 'Usage'"),
        ("id,images,Usage\na,x,Public\na,y,Public\n", "twice"),
        ("id,images,Usage\na,,Public\n", "no relevant"),
        ("id,images,Usage\na,x,Both\n", "Usage 'Both'"),
        ("id,images,Usage\na,x\n", "too few"),
        ("id,images,Usage\n", "no queries"),
    ],
)
def test_a_wrong_solution_is_refused(tmp_path, text, message):
    path = tmp_path / "solution.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        competition.read_solution(path)


@pytest.mark.parametrize("unit", [True, False])
def test_nearest_by_euclidean_distance(unit):
    random = np.random.default_rng(0)
    queries, index = random.normal(size=(30, 8)), random.normal(size=(200, 8))
    if unit:
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        index /= np.linalg.norm(index, axis=1, keepdims=True)
    distances = np.square(queries[:, None] - index[None]).sum(axis=-1)
    found = scorer.nearest(queries.astype(np.float32), index.astype(np.float32))
    np.testing.assert_array_equal(found, np.argsort(distances, axis=1)[:, :5])

import pytest

from universal_embedding.errors import UserError
from universal_embedding.kaggle import competition


def test_mean_precision_equals_the_published_value():
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
    value = competition.mean_precision_at_5(predictions, solution)
    assert round(value, 6) == 0.426667


def test_duplicate_occupies_a_rank_and_earns_nothing():
    solution = {"q": ("x1", "x2", "x3", "x4", "x5")}
    predictions = {"q": ("x1", "x1", "x1", "x2", "y", "x3")}
    assert competition.mean_precision_at_5(predictions, solution) == 0.4


def test_predicted_query_without_solution_is_refused():
    with pytest.raises(UserError, match="not in the solution"):
        competition.mean_precision_at_5({"p": ("x",)}, {"q": ("x",)})
    with pytest.raises(UserError, match="no relevant"):
        competition.mean_precision_at_5({"q": ("x",)}, {"q": ()})


def test_scores_are_split_into_public_private_and_total(tmp_path):
    path = tmp_path / "solution.csv"
    path.write_text("id,images,Usage\na,x y,Public\nb,x,Private\nc,y,Private\n")
    solution = competition.read_solution(path)
    scores = competition.score_predictions({"a": ("x", "z"), "b": ("x",)}, solution)
    assert scores == {"public": 0.5, "private": 0.5, "total": 0.5}
    only_private = competition.Solution({"b": ("x",)}, {"b": "Private"})
    assert competition.score_predictions({"b": ("x",)}, only_private)["public"] is None


def test_files_are_read_as_written(tmp_path):
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
def test_malformed_solution_is_refused(tmp_path, text, message):
    path = tmp_path / "solution.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        competition.read_solution(path)

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_domains import continuous, domains, grid

from universal_embedding.datasets.labels import Labels
from universal_embedding.retrieval import evaluation
from universal_embedding.retrieval.exact import BlockedTopK, exact
from universal_embedding.retrieval.gallery import DomainEmbeddings
from universal_embedding.retrieval.protocol import run

METRICS = {
    "r_at_1": lambda n, r: naive.r_at(1, n, r),
    "r_at_3": lambda n, r: naive.r_at(3, n, r),
    "mmp_at_5": lambda n, r: naive.mmp_at(5, n, r),
    "map_at_4": lambda n, r: naive.map_at(4, n, r),
    "map_at_r": lambda n, r: naive.map_at(n, n, r),
}
SIZES = {"b": (40, None), "a": (30, 50), "c": (3, 1)}


@pytest.mark.parametrize("search", [exact, BlockedTopK])
@pytest.mark.parametrize("protocol", ["merged", "separate"])
@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.parametrize("embeddings", [grid, continuous])
@pytest.mark.parametrize(
    "sizes, classes, dimension",
    [(SIZES, 5, 8), (SIZES, 40, 2), ({"a": (2, None)}, 1, 4), ({"a": (1, 1), "b": (60, 7)}, 3, 3)],
)
def test_equals_the_naive_version(search, protocol, most, embeddings, sizes, classes, dimension):
    assert_equals_naive(domains(0, sizes, classes, dimension, most, embeddings), protocol, search)


@given(
    st.dictionaries(
        st.sampled_from("abcd"),
        st.tuples(st.integers(1, 12), st.none() | st.integers(1, 12)),
        min_size=1,
    ),
    st.integers(1, 6),
    st.integers(1, 3),
    st.integers(0, 2**32 - 1),
)
def test_equals_the_naive_version_for_any_domains(sizes, classes, dimension, seed):
    made = domains(seed, sizes, classes, dimension, most=2)
    for protocol in ("merged", "separate"):
        assert_equals_naive(made, protocol, BlockedTopK)


def assert_equals_naive(made, protocol, search):
    found = evaluation.evaluate(made, [protocol], list(METRICS), search)[protocol]
    expected = naive.evaluate(made, protocol == "merged")
    for key, entries in expected.items():
        assert found[key]["without_relevant"] == sum(n == 0 for n, _ in entries)
        assert found[key]["queries"] == len(entries)
        for name, metric in METRICS.items():
            if any(n for n, _ in entries):
                assert found[key][name] == pytest.approx(naive.mean(metric, entries), abs=1e-12)
            else:
                assert found[key][name] is None


def test_check_value_of_the_kaggle_metric():
    # PROTOCOL.md: five queries scoring 0, 1/3, 4/5, 1, 0. The query is e0; the scores of the index
    # pictures fall with their number, and `right` says which of them are of the query's class.
    rights = [[0, 0, 0, 0, 0, 1], [1, 0, 0, 1, 1], [1, 1, 1, 1, 0, 1], [1, 1], [0, 1]]
    made = {}
    for number, right in enumerate(rights):
        cosines = 1 - 0.1 * np.arange(len(right))
        index = np.stack([cosines, np.sqrt(1 - cosines**2)], 1).astype(np.float32)
        query = np.array([[1, 0]], np.float32)
        labels = Labels.of([1 if r else 0 for r in right])
        made[str(number)] = DomainEmbeddings(query, Labels.of([1]), index, labels)
    report = evaluation.evaluate(made, ["separate"])["separate"]
    assert [report[key]["mmp_at_5"] for key in made] == pytest.approx([0, 1 / 3, 4 / 5, 1, 0])
    assert report["mean"]["mmp_at_5"] == pytest.approx(0.426667, abs=5e-7)


@pytest.mark.parametrize("embeddings", [grid, continuous])
@pytest.mark.parametrize("protocol", ["merged", "separate"])
def test_permutation_of_the_index_changes_nothing(embeddings, protocol):
    made = domains(1, {"a": (60, 90), "b": (50, None)}, embeddings=embeddings)
    rng = np.random.default_rng(0)
    shuffled = {}
    for key in ("b", "a"):
        domain = made[key]
        of_queries = rng.permutation(len(domain.query))
        parts = [domain.query[of_queries], Labels.of([domain.query_labels[i] for i in of_queries])]
        if domain.index is not None:
            order = rng.permutation(len(domain.index))
            parts += [domain.index[order], Labels.of([domain.index_labels[i] for i in order])]
        shuffled[key] = DomainEmbeddings(*parts)
    before, after = (evaluation.summarise(run(x, protocol)) for x in (made, shuffled))
    assert after.keys() == before.keys()
    for key, entry in before.items():
        assert after[key] == pytest.approx(entry, abs=1e-12)


def test_one_domain_merged_equals_separate():
    made = domains(2, {"a": (80, 40)}, embeddings=continuous)
    report = evaluation.evaluate(made)
    assert report["merged"] == report["separate"]


def test_merged_is_never_easier_without_duplicates():
    made = domains(3, {"a": (80, 40), "b": (70, None)}, embeddings=continuous)
    report = evaluation.evaluate(made, metrics=["r_at_1"])
    for key in made:
        assert report["merged"][key]["r_at_1"] <= report["separate"][key]["r_at_1"]


def test_mean_is_of_unrounded_values_over_domains():
    made = domains(4, {"a": (7, 30), "b": (90, None), "c": (33, None)})
    report = evaluation.evaluate(made, ["merged"])["merged"]
    expected = sum(report[key]["r_at_1"] for key in made) / 3
    assert report["mean"]["r_at_1"] == pytest.approx(expected, abs=1e-15)


def test_domain_without_relevant_pictures_is_none_and_not_in_the_mean():
    made = domains(5, {"a": (30, None)})
    made["b"] = DomainEmbeddings(np.eye(2, 8, dtype=np.float32), Labels.of([0, 1]))
    report = evaluation.evaluate(made, resamples=10)["merged"]
    assert report["b"]["r_at_1"] is None and report["b"]["without_relevant"] == 2
    assert report["mean"]["domains"] == 1
    assert report["mean"]["r_at_1"] == report["a"]["r_at_1"]


def test_self_is_excluded_by_identity_among_duplicates():
    # Three times the same picture: each has the two others, of which one is of its class.
    same = np.tile(np.array([[1, 0]], np.float32), (3, 1))
    made = {"a": DomainEmbeddings(same, Labels.of([0, 1, 0]))}
    result = run(made).domains["a"]
    assert [sorted(row[row >= 0]) for row in result.neighbours] == [[1, 2], [0, 2], [0, 1]]
    assert result.counts.tolist() == [1, 0, 1]


def test_query_that_stands_in_an_index_of_its_own_is_no_neighbour_of_itself():
    rows = np.array([[1, 0], [0.8, 0.6]], np.float32)
    ids = np.array(["x.jpg", "y.jpg"], object)
    made = {"a": DomainEmbeddings(rows[:1], Labels.of([0]), rows, Labels.of([0, 0]), ids[:1], ids)}
    result = run(made).domains["a"]
    assert result.counts.tolist() == [1] and result.neighbours[0].tolist()[:2] == [1, -1]


def test_wrong_first_neighbours_are_counted_by_their_domain():
    e = np.eye(4, dtype=np.float32)
    made = {
        "a": DomainEmbeddings(e[[0, 0, 1]], Labels.of([0, 1, 2]), e[[0, 3]], Labels.of([0, 2])),
        "b": DomainEmbeddings(e[:1], Labels.of([9]), e[[1]], Labels.of([9])),
    }
    # a's queries: right; wrong (n = 0, not counted); wrong, found in b. b's: wrong, found in a.
    confusion = evaluation.confusion(run(made))
    assert confusion == {"a": {"a": 0, "b": 1}, "b": {"a": 1, "b": 0}}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_an_error(bad):
    with pytest.raises(ValueError, match="1 of 2 query embeddings are not finite"):
        DomainEmbeddings(np.array([[1, 0], [bad, 0]], np.float32), Labels.of([0, 1]))

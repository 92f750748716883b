import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import naive
from tests.helpers.random_domains import continuous, grid, random_domains
from universal_embedding.datasets.examples import Labels
from universal_embedding.evaluation.embeddings import DomainEmbeddings
from universal_embedding.evaluation.evaluate import evaluate_domains
from universal_embedding.evaluation.protocol import run_protocol
from universal_embedding.evaluation.statistics import domain_confusion, summarize
from universal_embedding.search.exact import BlockedTopK, exact_search

SIZES = {"b": (40, None), "a": (30, 50), "c": (3, 1)}


@pytest.mark.parametrize("search", [exact_search, BlockedTopK])
@pytest.mark.parametrize("protocol", ["merged", "separate"])
@pytest.mark.parametrize("max_labels", [1, 3])
@pytest.mark.parametrize("embeddings", [grid, continuous])
@pytest.mark.parametrize(
    "sizes, num_classes, dimension",
    [(SIZES, 5, 8), (SIZES, 40, 2), ({"a": (2, None)}, 1, 4), ({"a": (1, 1), "b": (60, 7)}, 3, 3)],
)
def test_scores_equal_naive_scores(
    search, protocol, max_labels, embeddings, sizes, num_classes, dimension
):
    domains = random_domains(0, sizes, num_classes, dimension, max_labels, embeddings)
    assert_equals_naive(domains, protocol, search)


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
def test_scores_equal_naive_scores_for_any_domains(sizes, num_classes, dimension, seed):
    domains = random_domains(seed, sizes, num_classes, dimension, max_labels=2)
    for protocol in ("merged", "separate"):
        assert_equals_naive(domains, protocol, BlockedTopK)


def assert_equals_naive(domains, protocol, search):
    summary = evaluate_domains(domains, [protocol], list(naive.METRICS), search)[protocol]
    for key, entries in naive.rank(domains, protocol == "merged").items():
        without_positives = sum(n == 0 for n, _ in entries)
        assert summary[key]["num_queries_without_positives"] == without_positives
        assert summary[key]["num_queries"] == len(entries)
        for name, metric in naive.METRICS.items():
            if any(n for n, _ in entries):
                assert summary[key][name] == pytest.approx(naive.mean(metric, entries), abs=1e-12)
            else:
                assert summary[key][name] is None


def test_mmp_at_5_equals_the_check_value_of_the_kaggle_metric():
    # The challenge's example: five queries scoring 0, 1/3, 4/5, 1, 0. The query is e0; the scores
    # of the index images fall with their number, and the flags tell which are of its class.
    flags_by_query = [[0, 0, 0, 0, 0, 1], [1, 0, 0, 1, 1], [1, 1, 1, 1, 0, 1], [1, 1], [0, 1]]
    domains = {}
    for number, flags in enumerate(flags_by_query):
        cosines = 1 - 0.1 * np.arange(len(flags))
        index = np.stack([cosines, np.sqrt(1 - cosines**2)], 1).astype(np.float32)
        query = np.array([[1, 0]], np.float32)
        domains[str(number)] = DomainEmbeddings(
            query, Labels.from_rows([1]), index, Labels.from_rows(flags)
        )
    summary = evaluate_domains(domains, ["separate"])["separate"]
    scores = [summary[key]["mmp_at_5"] for key in domains]
    assert scores == pytest.approx([0, 1 / 3, 4 / 5, 1, 0])
    assert summary["mean"]["mmp_at_5"] == pytest.approx(0.426667, abs=5e-7)


@pytest.mark.parametrize("embeddings", [grid, continuous])
@pytest.mark.parametrize("protocol", ["merged", "separate"])
def test_scores_do_not_change_when_records_are_permuted(embeddings, protocol):
    domains = random_domains(1, {"a": (60, 90), "b": (50, None)}, embeddings=embeddings)
    rng = np.random.default_rng(0)
    shuffled = {}
    for key in ("b", "a"):
        domain = domains[key]
        order = rng.permutation(len(domain.query))
        arrays = [domain.query[order], Labels.from_rows([domain.query_labels[i] for i in order])]
        if domain.index is not None:
            order = rng.permutation(len(domain.index))
            arrays += [domain.index[order]]
            arrays += [Labels.from_rows([domain.index_labels[i] for i in order])]
        shuffled[key] = DomainEmbeddings(*arrays)
    before, after = (summarize(run_protocol(x, protocol)) for x in (domains, shuffled))
    assert after.keys() == before.keys()
    for key, entry in before.items():
        assert after[key] == pytest.approx(entry, abs=1e-12)


def test_merged_equals_separate_for_one_domain():
    domains = random_domains(2, {"a": (80, 40)}, embeddings=continuous)
    report = evaluate_domains(domains)
    assert report["merged"] == report["separate"]


def test_merged_is_never_easier_than_separate_without_duplicates():
    domains = random_domains(3, {"a": (80, 40), "b": (70, None)}, embeddings=continuous)
    report = evaluate_domains(domains, metrics=["r_at_1"])
    for key in domains:
        assert report["merged"][key]["r_at_1"] <= report["separate"][key]["r_at_1"]


def test_mean_is_unweighted_and_of_unrounded_values():
    domains = random_domains(4, {"a": (7, 30), "b": (90, None), "c": (33, None)})
    report = evaluate_domains(domains, ["merged"])["merged"]
    expected = sum(report[key]["r_at_1"] for key in domains) / 3
    assert report["mean"]["r_at_1"] == pytest.approx(expected, abs=1e-15)


def test_domain_without_positives_has_none_and_is_left_out_of_the_mean():
    domains = random_domains(5, {"a": (30, None)})
    domains["b"] = DomainEmbeddings(np.eye(2, 8, dtype=np.float32), Labels.from_rows([0, 1]))
    report = evaluate_domains(domains, bootstrap_samples=10)["merged"]
    assert report["b"]["r_at_1"] is None and report["b"]["num_queries_without_positives"] == 2
    assert report["mean"]["num_domains"] == 1
    assert report["mean"]["r_at_1"] == report["a"]["r_at_1"]


def test_query_is_excluded_by_identity_among_duplicates():
    # Three times the same image: each has the two others, of which one is of its class.
    same = np.tile(np.array([[1, 0]], np.float32), (3, 1))
    result = run_protocol({"a": DomainEmbeddings(same, Labels.from_rows([0, 1, 0]))}).domains["a"]
    assert [sorted(row[row >= 0]) for row in result.neighbors] == [[1, 2], [0, 2], [0, 1]]
    assert result.num_positives.tolist() == [1, 0, 1]


def test_query_in_a_separate_index_is_not_its_own_neighbor():
    rows = np.array([[1, 0], [0.8, 0.6]], np.float32)
    ids = np.array(["x.jpg", "y.jpg"], object)
    domain = DomainEmbeddings(
        rows[:1], Labels.from_rows([0]), rows, Labels.from_rows([0, 0]), ids[:1], ids
    )
    result = run_protocol({"a": domain}).domains["a"]
    assert result.num_positives.tolist() == [1]
    assert result.neighbors[0].tolist()[:2] == [1, -1]


@pytest.mark.parametrize("max_neighbors", [1, 3, 60])
def test_kept_neighbors_equal_a_naive_leave_one_out(max_neighbors):
    rng = np.random.default_rng(6)
    classes = np.sort(rng.integers(0, 4, 40))  # in the order of ties: label, then record
    rows = continuous(rng, 40, 6)
    domain = DomainEmbeddings(rows, Labels.from_rows(classes))
    result = run_protocol({"a": domain}, max_neighbors=max_neighbors).domains["a"]
    similarities = rows @ rows.T
    for i in range(40):
        order = sorted(set(range(40)) - {i}, key=lambda j: (-similarities[i, j], j))
        order = order[:max_neighbors]
        n = len(order)
        assert result.neighbors[i].tolist() == order + [-1] * (max_neighbors - n)
        assert result.relevant[i, :n].tolist() == (classes[order] == classes[i]).tolist()
        assert result.similarities[i, :n] == pytest.approx(similarities[i, order], abs=1e-6)
        assert result.num_positives[i] == (classes == classes[i]).sum() - 1
    assert result.neighbors.shape == (40, max_neighbors)


def test_domain_confusion_counts_wrong_first_neighbors_by_their_domain():
    e = np.eye(4, dtype=np.float32)
    first = [e[[0, 0, 1]], Labels.from_rows([0, 1, 2]), e[[0, 3]], Labels.from_rows([0, 2])]
    second = [e[:1], Labels.from_rows([9]), e[[1]], Labels.from_rows([9])]
    domains = {"a": DomainEmbeddings(*first), "b": DomainEmbeddings(*second)}
    # a's queries: right; wrong (n = 0, not counted); wrong, neighbor from b. b's: wrong, from a.
    confusion = domain_confusion(run_protocol(domains))
    assert confusion == {"a": {"a": 0, "b": 1}, "b": {"a": 1, "b": 0}}


def test_separate_neighbors_are_all_of_the_domain_of_the_query():
    domains = random_domains(7, {"b": (9, 3), "a": (4, None), "c": (5, 8)})
    result = run_protocol(domains, "separate")
    for domain_id, key in enumerate("abc"):
        domain = result.domains[key]
        expected = np.where(domain.neighbors >= 0, domain_id, -1)
        np.testing.assert_array_equal(domain.neighbor_domains, expected)
    confusion = domain_confusion(result)
    assert all(not confusion[x][y] for x in "abc" for y in "abc" if x != y)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_raise_value_error(bad):
    with pytest.raises(ValueError, match="1 of 2 query embeddings are not finite"):
        DomainEmbeddings(np.array([[1, 0], [bad, 0]], np.float32), Labels.from_rows([0, 1]))


def test_embeddings_of_two_sizes_raise_value_error():
    labels = Labels.from_rows([0])
    narrow, wide = np.ones((1, 2), np.float32), np.ones((1, 3), np.float32)
    with pytest.raises(ValueError, match=r"query has shape \(1, 2\) and index \(1, 3\)"):
        DomainEmbeddings(narrow, labels, wide, labels)
    domains = {"a": DomainEmbeddings(narrow, labels), "b": DomainEmbeddings(wide, labels)}
    with pytest.raises(ValueError, match="embeddings of one size"):
        run_protocol(domains, "merged")


def test_unknown_protocol_raises_value_error():
    with pytest.raises(ValueError, match="protocol is 'joint'"):
        run_protocol(random_domains(0, {"a": (3, None)}), "joint")

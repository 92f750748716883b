"""Centering, PCA and whitening: against closed forms, and fitted on training images alone."""

import argparse
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.evaluated import make_eval_sets, make_records
from universal_embedding.commands import evaluate as evaluate_command
from universal_embedding.errors import UserError
from universal_embedding.evaluation import transforms
from universal_embedding.evaluation.embed import EmbeddingSource
from universal_embedding.evaluation.embeddings import DomainEmbeddings
from universal_embedding.evaluation.evaluate import (
    EvaluationConfig,
    evaluate_domains,
    evaluate_source,
    make_report,
)
from universal_embedding.evaluation.transforms import (
    METHODS,
    EmbeddingTransform,
    evaluate_transforms,
)
from universal_embedding.reporting import tables

DIM = 4


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def skewed(seed, count, size=9):
    """Rows far from centered, whose directions differ in variance."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, size)) * np.geomspace(2, 0.1, size) + 1.5


def closed_form(train, rows, method, dim):
    """The map by an eigendecomposition of the covariance; up to the signs of the axes."""
    train, rows = unit(train), unit(rows)
    mean = train.mean(0)
    values, vectors = np.linalg.eigh((train - mean).T @ (train - mean) / (len(train) - 1))
    matrix = vectors[:, ::-1][:, :dim]
    if method == "center":
        matrix = np.eye(len(mean))
    if method == "whiten":
        matrix = matrix / np.sqrt(values[::-1][:dim])
    return unit((rows - mean) @ matrix), values[::-1][:dim].sum() / values.sum()


@pytest.mark.parametrize("method", METHODS[1:])
def test_map_equals_the_closed_form(method, monkeypatch):
    monkeypatch.setattr(transforms, "_ROWS_PER_BLOCK", 7)
    train, rows = skewed(0, 200), skewed(1, 25)
    fitted = EmbeddingTransform.fit(train, method, DIM)
    expected, share = closed_form(train, rows, method, DIM)
    actual = fitted(rows)
    assert actual.dtype == np.float32 and actual.shape == expected.shape
    np.testing.assert_allclose(actual @ actual.T, expected @ expected.T, atol=2e-5)
    assert fitted.explained_variance == pytest.approx(1 if method == "center" else share, rel=1e-6)


def test_whitened_training_embeddings_have_unit_covariance_before_they_are_unit_rows():
    train = skewed(2, 300)
    fitted = EmbeddingTransform.fit(train, "whiten", DIM)
    rows = (unit(train) - fitted.mean) @ fitted.matrix
    np.testing.assert_allclose(np.cov(rows.T), np.eye(DIM), atol=1e-4)
    np.testing.assert_allclose(rows.mean(0), 0, atol=1e-4)


@given(
    st.sampled_from(METHODS[1:]),
    st.integers(0, 2**32 - 1),
    st.floats(0.01, 100),
    st.integers(1, 9),
)
def test_unit_rows_that_depend_on_directions_alone(method, seed, length, dim):
    train, rows = skewed(seed, 30), skewed(seed + 1, 8)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(9, 9)))
    mapped = EmbeddingTransform.fit(train, method, dim)(rows)
    np.testing.assert_allclose(np.linalg.norm(mapped, axis=1), 1, rtol=1e-4)
    for new_train, new_rows in (
        (train[::-1], rows),  # order
        (train * length, rows / length),  # lengths
        (train @ rotation, rows @ rotation),  # axes
    ):
        again = EmbeddingTransform.fit(new_train, method, dim)(new_rows)
        np.testing.assert_allclose(again @ again.T, mapped @ mapped.T, atol=5e-3)


def test_what_the_training_embeddings_do_not_allow_is_refused():
    flat = skewed(3, 50)
    flat[:, 3:] = 0
    with pytest.raises(UserError, match=r"vary in 3 directions.*--embedding_dim=3 or less"):
        EmbeddingTransform.fit(flat, "whiten", DIM)
    for rows in (skewed(3, 50)[:, :3], skewed(3, 4)):
        with pytest.raises(UserError, match=r"pca to 4 dimensions is not possible.*smaller"):
            EmbeddingTransform.fit(rows, "pca", DIM)
    with pytest.raises(ValueError, match="method is 'none'"):
        EmbeddingTransform.fit(flat, "none", DIM)


class CountingSource:
    """Embeddings by image, and which splits were embedded."""

    def __init__(self):
        self.calls = []

    def __call__(self, records):
        self.calls.append((records.domain, records.split, len(records)))
        seeds = [
            zlib.crc32(f"{records.domain} {records.split} {i}".encode())
            for i in range(len(records))
        ]
        rows = [np.eye(6, 9)[label] for label in records.labels.values]
        noise = [np.random.default_rng(seed).normal(size=9) for seed in seeds]
        return (np.array(rows) + 0.4 * np.array(noise) + 1).astype(np.float32)


@pytest.fixture
def train_records():
    return [make_records(key, np.arange(60) % 6, "train", "t") for key in ("b", "a")]


def test_results_are_those_of_mapped_embeddings_and_training_images_are_embedded_once(
    train_records,
):
    embed, eval_sets = CountingSource(), make_eval_sets()
    config = EvaluationConfig(bootstrap_samples=0, bank=train_records)
    source = EmbeddingSource("x", embed)
    results = evaluate_transforms(source, eval_sets, config, train_records, METHODS, DIM)
    assert sorted(embed.calls) == sorted(
        [("a", "test", 30), ("a", "index", 30), ("b", "test", 30)]
        + [(key, "train", 60) for key in "ab"] * 2  # for the bank and for the maps
    )
    assert [r.name for r in results] == ["x", "x, center", "x, pca 4", "x, whiten 4"]
    plain = evaluate_source(source, eval_sets, config)
    assert make_report(results[:1], config)["merged"] == make_report([plain], config)["merged"]
    train = np.concatenate([embed(records) for records in train_records])
    for method, result in zip(METHODS[1:], results[1:], strict=True):
        domains = {}
        for key, domain in plain.domains.items():
            query, _ = closed_form(train, domain.query, method, DIM)
            index = (None, None)
            if domain.index is not None:
                index = closed_form(train, domain.index, method, DIM)[0], domain.index_labels
            domains[key] = DomainEmbeddings(query, domain.query_labels, *index)
        without_bank = EvaluationConfig(bootstrap_samples=0)
        actual = evaluate_domains(result.domains)
        assert actual == evaluate_domains(domains)
        assert result.results.keys() == set(without_bank.protocols)
        assert result.transform["fitted_on"] == {
            "split": "train",
            "num_images": {"b": 60, "a": 60},
            "num_images_of_split": 120,
        }


def test_report_says_what_was_fitted_on_what(train_records):
    config = EvaluationConfig(bootstrap_samples=0)
    source = EmbeddingSource("x", CountingSource())
    results = evaluate_transforms(
        source, make_eval_sets(), config, train_records, ["none", "whiten"], DIM
    )
    report = {"dataset": "d", "split": "test", **make_report(results, config)}
    assert "transform" not in report
    facts = report["comparisons"]["x, whiten 4"]["transform"]
    assert (facts["method"], facts["embedding_dim"]) == ("whiten", DIM)
    assert 0.3 < facts["explained_variance"] < 1
    sentence = "PCA-whitening: 4 dimensions with "
    for text in (tables.format_report_text(report), tables.format_report_markdown(report)):
        assert sentence in text and "of 120 of the 120 images of the split train" in text


def test_at_most_so_many_images_are_embedded_of_each_domain_its_share(train_records, monkeypatch):
    monkeypatch.setattr(transforms, "MAX_FIT_IMAGES", 40)
    train_records[0] = make_records("b", np.arange(20) % 6, "train", "t")
    embed, config = CountingSource(), EvaluationConfig(bootstrap_samples=0)
    source = EmbeddingSource("x", embed)
    (result,) = evaluate_transforms(source, make_eval_sets(), config, train_records, ["pca"], DIM)
    assert result.transform["fitted_on"]["num_images"] == {"b": 10, "a": 30}
    sample = transforms.sample_records(train_records[1], 80)
    assert sample.image_ids[0] == "t0.jpg" and sample.image_ids[-1] == "t59.jpg"
    assert len(set(sample.image_ids)) == 30


@pytest.mark.parametrize("other", ["--specialist=a=x", "--compatible=x"])
def test_transforms_are_of_single_models(other):
    parser = argparse.ArgumentParser()
    evaluate_command.add_arguments(parser)
    args = parser.parse_args(["--transform=none,pca", other])
    with pytest.raises(UserError, match="--transform is for --model"):
        evaluate_command.run(args)


@pytest.mark.parametrize(("methods", "message"), [(["zca"], "'zca' is unknown"), ([], "no tran")])
def test_unknown_methods_are_refused(methods, message):
    with pytest.raises(UserError, match=message):
        evaluate_transforms(None, {}, EvaluationConfig(), [], methods)

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.fake_records import FakeRecords, make_domains
from universal_embedding.errors import UserError
from universal_embedding.evaluation.embed import QueryIndexRecords, from_model
from universal_embedding.evaluation.evaluate import EvaluationConfig, evaluate_source, make_report
from universal_embedding.evaluation.validation import Validation
from universal_embedding.models.backbones import load_backbone
from universal_embedding.models.embedding_model import EmbeddingModel
from universal_embedding.training.strategy import mirrored


@pytest.fixture(scope="module")
def eval_sets():
    records = make_domains({"a": 12, "b": 9, "c": 6}, num_classes=3)
    return {
        "a": QueryIndexRecords(records["a"], None),
        "b": QueryIndexRecords(records["b"], records["c"]),
    }


@pytest.fixture(scope="module")
def model():
    tf.keras.utils.set_random_seed(0)
    return EmbeddingModel(load_backbone("small", 32), embedding_dim=8, image_size=32)


def test_validation_scores_equal_those_of_evaluate_source(eval_sets, model):
    protocols, metrics = ("merged", "separate"), ("r_at_1", "map_at_r")
    validation = Validation(eval_sets, protocols, metrics, batch_size=5)
    scores = validation(model, tf.distribute.get_strategy())
    config = EvaluationConfig(protocols, metrics, bootstrap_samples=0)
    result = evaluate_source(from_model("x", model, batch_size=5), eval_sets, config)
    report = make_report([result], config)
    assert scores == {
        f"{protocol}/{domain}/{metric}": report[protocol][domain][metric]
        for protocol in protocols
        for domain in ("a", "b", "mean")
        for metric in metrics
    }
    assert validation(model, tf.distribute.get_strategy()) == scores
    assert validation.images() == {}


def test_two_replicas_give_the_scores_of_one(eval_sets, model):
    strategy = mirrored(2)
    with strategy.scope():
        tf.keras.utils.set_random_seed(0)
        copy = EmbeddingModel(load_backbone("small", 32), embedding_dim=8, image_size=32)
    for weight, value in zip(copy.weights, model.weights, strict=True):
        weight.assign(value)
    rows = from_model("x", model, 3).embed(eval_sets["a"].queries)
    copied = from_model("x", copy, 3, strategy).embed(eval_sets["a"].queries)
    np.testing.assert_allclose(copied, rows, atol=1e-6)
    scores = Validation(eval_sets, batch_size=3)(model, tf.distribute.get_strategy())
    assert Validation(eval_sets, batch_size=3)(copy, strategy) == scores


def test_validation_images_are_drawn_from_the_first_protocol(eval_sets, model):
    def draw(domains, result, sets, num_examples):
        assert sets is eval_sets and num_examples == 2
        assert result.domains["a"].neighbors.shape == (len(domains["a"].query), 5)
        return {key: np.zeros((2, 3, 3), np.uint8) for key in domains}

    validation = Validation(eval_sets, num_examples=2, draw=draw)
    assert validation.images() == {}
    scores = validation(model, tf.distribute.get_strategy())
    assert 0 <= scores["merged/mean/r_at_1"] <= 1
    assert validation.images().keys() == {"a", "b"}
    without = Validation(eval_sets, num_examples=0, draw=draw)
    without(model, tf.distribute.get_strategy())
    assert without.images() == {}


def test_metric_without_a_value_is_left_out(model):
    records = make_domains({"a": 2, "b": 4}, num_classes=2)
    validation = Validation({d: QueryIndexRecords(r, None) for d, r in records.items()})
    scores = validation(model, tf.distribute.get_strategy())
    assert {name.split("/")[1] for name in scores} == {"b", "mean"}


@pytest.mark.parametrize("is_in_index", [False, True])
def test_queries_without_any_relevant_image_are_refused_before_training(is_in_index):
    records = make_domains({"a": 2, "b": 4}, num_classes=2)
    index = None
    if is_in_index:  # each query finds only itself
        index = FakeRecords("a", records["a"].labels, image_ids=records["a"].image_ids)
    with pytest.raises(UserError, match=r"no image of a train has another one of its class"):
        Validation({"a": QueryIndexRecords(records["a"], index)})
    Validation(
        {"a": QueryIndexRecords(records["a"], index), "b": QueryIndexRecords(records["b"], None)}
    )

"""Runs behind the tables on UnED and uned_mini: trained, scored, and kept in their directories."""

import json
from abc import ABC, abstractmethod
from pathlib import Path

import common
import keras
import numpy as np
import tensorflow as tf

from universal_embedding.datasets.records import open_records
from universal_embedding.errors import UserError
from universal_embedding.evaluation.embed import (
    EmbeddingSource,
    embed_eval_sets,
    from_model,
    open_eval_sets,
)
from universal_embedding.evaluation.evaluate import evaluate_domains
from universal_embedding.evaluation.validation import Validation
from universal_embedding.files import atomic_write
from universal_embedding.training.checkpoints import load_embedding_model
from universal_embedding.training.experiment import Experiment
from universal_embedding.training.feature_cache import cache_features
from universal_embedding.training.run_directory import write_config
from universal_embedding.training.teachers import Teachers

ORACLE = "specialists + oracle"
BATCH_SIZE = 64  # images per replica, in evaluation
ROWS_PER_BLOCK = 1 << 16


class Runner(ABC):
    """Trains and scores models of one data set and seed; subclasses make the configs.

    What an earlier start finished is read from `<folder>/<name>`; a run that was interrupted
    resumes from its checkpoint. Models over a backbone that no stage trains are evaluated from
    features that are computed once for all of them.

    Args:
        data_dir: Directory of prepared data sets.
        dataset: Name of the data set.
        folder: Directory of the runs.
        features_folder: Directory of the frozen backbone's features.
        strategy: Where models train and embed; None: the current one.
        validates: Whether runs are evaluated as `config.evals` asks, and their best checkpoint is
            scored; otherwise the last one is.
        bootstrap_samples: Samples behind the intervals of the scores; 0 for none.
    """

    def __init__(
        self,
        data_dir,
        dataset,
        folder,
        features_folder,
        strategy=None,
        validates=False,
        bootstrap_samples=0,
    ):
        self.eval_sets = {s: open_eval_sets(data_dir, dataset, s) for s in ("val", "test")}
        self.records = {
            domain: open_records(data_dir, dataset, domain, "train")
            for domain in self.eval_sets["test"]
        }
        self.folder, self.features_folder = Path(folder), Path(features_folder)
        (self.features_folder / "train").mkdir(parents=True, exist_ok=True)
        self.strategy = strategy or tf.distribute.get_strategy()
        self.validates, self.bootstrap_samples = validates, bootstrap_samples

    @abstractmethod
    def make_config(self, name):
        """The config of the universal model of a row."""

    def make_specialist(self, domain):
        """The config of a domain's specialist, for tables that have them."""
        raise UserError(f"this table has no specialist of {domain}: leave out {ORACLE!r}")

    def run_row(self, name):
        """The scores of a row by split, as `evaluate_domains` returns them.

        Raises:
            UserError: an earlier start trained it with another config.
        """
        if name != ORACLE:
            return self._run_universal(name, self.make_config(name))
        return self._run_specialists({key: self.make_specialist(key) for key in self.records})

    def _run_universal(self, name, config):
        def compute():
            if config.distillation.teachers:
                self.run_row(ORACLE)
            self.train(name, config)
            source = self.source(name, config)
            return {
                s: self._evaluate(embed_eval_sets(source, e)) for s, e in self.eval_sets.items()
            }

        return self.scores(name, compute, {name: config})

    def _run_specialists(self, configs):
        """Routes each query to its domain's model and index: both protocols have equal scores."""

        def compute():
            for domain, config in configs.items():
                self.train(domain, config)
            scores = {}
            for split, eval_sets in self.eval_sets.items():
                domains = {}
                for domain, config in configs.items():
                    source = self.source(domain, config)
                    domains |= embed_eval_sets(source, {domain: eval_sets[domain]})
                separate = self._evaluate(domains, ["separate"])["separate"]
                scores[split] = {"merged": separate, "separate": separate}
            return scores

        return self.scores(ORACLE, compute, configs)

    def scores(self, name, compute, configs):
        """The scores in `<folder>/<name>/scores.json`, computed unless an earlier start did.

        Args:
            name: The row.
            compute: Makes the scores.
            configs: Configs by run directory, with which the runs must have been trained.
        """
        for run, config in configs.items():
            if (self.folder / run / "config.json").exists():
                write_config(self.folder / run, config, {})  # compares
        path = self.folder / name / "scores.json"
        if not path.exists():
            scores = compute()
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as file:
                file.write(json.dumps(scores))
        return json.loads(path.read_text())

    def train(self, name, config):
        """Trains a model in its run directory, from its last checkpoint if there is one."""
        keras.backend.clear_session()
        workdir = self.folder / name
        workdir.mkdir(parents=True, exist_ok=True)
        link(workdir / "features", self.features_folder / "train")
        if config.distillation.teachers:
            link(workdir / "teachers", self.cache_teachers(config))
        domains = list(config.data.domains) or list(self.records)
        records = {domain: self.records[domain] for domain in domains}
        experiment = Experiment.from_config(config, records, workdir, self.strategy)
        write_config(workdir, config, experiment.data_summary())
        evaluators = {"val": self._validation(config, domains)} if self.validates else None
        common.train_to_end(experiment, evaluators)

    def source(self, name, config):
        """The trained model as a source of embeddings."""
        with self.strategy.scope():
            model = load_embedding_model(self.folder / name)
        return self.make_source(name, model, is_frozen(config))

    def make_source(self, name, model, is_frozen):
        """A source of a model's embeddings, from cached features if its backbone is `is_frozen`."""
        if not is_frozen:
            return from_model(name, model, BATCH_SIZE, self.strategy)

        def embed(records):
            folder = self.features_folder / records.split
            features = cache_features(
                folder, {records.domain: records}, model, self.strategy, BATCH_SIZE, False
            )[records.domain]
            starts = range(0, len(features), ROWS_PER_BLOCK)
            blocks = (np.asarray(features[start : start + ROWS_PER_BLOCK]) for start in starts)
            rows = (model.embed_features(model.standardize(block)) for block in blocks)
            return np.concatenate([block.numpy() for block in rows])

        return EmbeddingSource(name, embed)

    def cache_teachers(self, config):
        """The directory with the embeddings of the training images by the domains' specialists."""
        folder = self.folder / "teacher_embeddings"
        for teacher in Teachers(config, self.records, folder):
            teacher.cached_rows(self.strategy, standardized=False)
        return folder

    def _validation(self, config, domains):
        eval_sets = {domain: self.eval_sets["val"][domain] for domain in domains}
        options = config.evals.val
        if not is_frozen(config):
            sizes = (options.batch_size, 0)
            return Validation(eval_sets, options.protocols, options.metrics, *sizes)

        def validate(model, strategy):
            embeddings = embed_eval_sets(self.make_source("validation", model, True), eval_sets)
            scores = evaluate_domains(embeddings, options.protocols, options.metrics)
            return {
                f"{protocol}/{domain}/{metric}": values[metric]
                for protocol, summary in scores.items()
                for domain, values in summary.items()
                for metric in options.metrics
                if values[metric] is not None
            }

        return validate

    def _evaluate(self, domains, protocols=("merged", "separate")):
        return evaluate_domains(domains, protocols, bootstrap_samples=self.bootstrap_samples)


def is_frozen(config):
    """Whether no stage of a config trains the backbone."""
    return not any(stage.backbone_lr for stage in config.stages)


def link(path, target):
    """Makes `path` a link to the directory `target`, unless it exists."""
    if not path.exists():
        path.symlink_to(target.resolve())

"""UDON, online distillation from teacher heads on the student's own backbone: arXiv 2406.08332.

Each domain has a teacher: a projection of the shared features and a cosine classifier. The student
is the embedding model with a cosine classifier for each domain. For an image i of domain d, with
teacher and student embeddings t_i and s_i, the loss is the weighted mean of

- `teacher`: the cross-entropy of the teacher's classifier,
- `student`: the cross-entropy of the student's classifier,
- `logits`: KL(p_i || q_i), softmax of the teacher's and student's class cosines over
  `class_temperature`,
- `similarities`: 31 times the mean of (t_i . t_j - s_i . s_j)^2 over the other images j of domain d
  in the batch. The paper's code sums over the columns of each device, times a quarter of the number
  of devices: 32 columns, one of them i itself, of a batch of 128 on any number of devices. Its
  weights of 1 belong to that scale, which the mean keeps for other batches.

The teacher side of the last two has no gradient. With `stop_gradient_at="backbone"`, as in the
paper's code, they train the backbone and the student's projection and classifiers; with
`"projection"`, as in its figure, not the backbone.
"""

from collections.abc import Callable, Mapping

import keras
import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.models.heads import MarginHead, class_logits, l2_normalize
from universal_embedding.training.losses import pairwise
from universal_embedding.training.losses.base import Loss, LossContext, ModelOutputs
from universal_embedding.training.losses.classification import (
    ClassificationLoss,
    class_seed,
    classify,
    make_head,
)

STOP_GRADIENT_AT = ("projection", "backbone")
NUM_SIMILARITIES = 31  # of an image, whose squared differences the paper's code sums


class UDONLoss(Loss):
    """UDON's four terms; options in `config.losses.udon`.

    The log has each term by domain, so `config.data.reweight_by="udon_teacher"` can sample domains
    by their teachers' losses, as in the paper.
    """

    terms = ("teacher", "student", "logits", "similarities")
    uses_whole_batch = True

    def __init__(self, context: LossContext) -> None:
        config = context.config.losses.udon
        _check_config(context)
        self.stops_at_projection = config.stop_gradient_at == "projection"
        self.temperature = config.class_temperature
        self.term_weights = [weight / sum(config.term_weights) for weight in config.term_weights]
        self.model, self.domains = context.model, tuple(context.class_sizes)
        self.has_bias = context.config.model.projection_bias
        self.student = ClassificationLoss(context)
        self.head = self.student.head
        self.teacher_head = make_head(context, config.teacher_dim)
        self.projections = []
        for domain in self.domains:
            projection = keras.layers.Dense(
                config.teacher_dim,
                use_bias=self.has_bias,
                dtype="float32",
                name=f"teacher_{domain}",
            )
            projection.build((None, self.model.backbone.output_shape[-1]))
            self.projections.append(projection)

    def variables_by_group(self) -> dict[str, list[keras.Variable]]:
        """`head/<domain>` of the student; `teacher/<domain>`: projection and classifier."""
        weights = zip(self.domains, self.projections, self.teacher_head.class_weights, strict=True)
        teachers = {
            f"teacher/{domain}": [*projection.trainable_variables, class_weights]
            for domain, projection, class_weights in weights
        }
        return self.student.variables_by_group() | teachers

    def updated_groups(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Classifiers and teachers are updated if the batch has examples of their domain."""
        updated = self.student.updated_groups(batch)
        return updated | {f"teacher/{domain}": updated[f"head/{domain}"] for domain in self.domains}

    def __call__(self, batch: Mapping[str, tf.Tensor], outputs: ModelOutputs) -> tf.Tensor:
        """`[4, b]` float32: the terms, each times its normalized weight."""
        domains, student = batch["domain"], outputs.embedding
        if self.stops_at_projection:
            student = self.model.embed_features(tf.stop_gradient(outputs.features))
        teacher = self._teacher_embedding(tf.cast(outputs.features, tf.float32), domains)
        teacher_loss = classify(
            self.teacher_head,
            teacher,
            batch,
            outputs,
            seed=class_seed(self.student.seed, outputs.step, purpose="teacher"),
        )
        frozen_teacher = tf.stop_gradient(teacher)
        terms = (
            teacher_loss,
            self.student(batch, outputs),
            self._logits_loss(frozen_teacher, student, domains),
            _similarities_loss(frozen_teacher, student, batch),
        )
        weighted = [weight * term for weight, term in zip(self.term_weights, terms, strict=True)]
        return tf.stack(weighted)

    def _teacher_embedding(self, features: tf.Tensor, domains: tf.Tensor) -> tf.Tensor:
        """`[b, F]` -> `[b, teacher_dim]` unit rows, each from its own domain's teacher."""
        if self.has_bias:
            features = l2_normalize(features)
        zeros = tf.zeros([tf.shape(features)[0], self.projections[0].units])
        rows = self._map_by_domain(domains, zeros, lambda d: self.projections[d](features))
        return l2_normalize(rows)

    def _logits_loss(self, teacher: tf.Tensor, student: tf.Tensor, domains: tf.Tensor) -> tf.Tensor:
        def divergence(domain: int) -> tf.Tensor:
            teacher_log_probs = self._class_log_probs(self.teacher_head, domain, teacher)
            student_log_probs = self._class_log_probs(self.student.head, domain, student)
            teacher_log_probs = tf.stop_gradient(teacher_log_probs)
            difference = teacher_log_probs - student_log_probs
            return tf.reduce_sum(tf.exp(teacher_log_probs) * difference, axis=1)

        return self._map_by_domain(domains, tf.zeros_like(student[:, 0]), divergence)

    def _class_log_probs(self, head: MarginHead, domain: int, embedding: tf.Tensor) -> tf.Tensor:
        cosines = class_logits(embedding, head.class_weights[domain].value, head.num_subcenters)
        return tf.nn.log_softmax(cosines / self.temperature, axis=1)

    def _map_by_domain(
        self, domains: tf.Tensor, zeros: tf.Tensor, compute: Callable[[int], tf.Tensor]
    ) -> tf.Tensor:
        """Each row from `compute(domain)` of its own domain; absent domains are not computed."""
        result = zeros
        for domain in range(len(self.domains)):
            mask = domains == domain
            rows = tf.cond(tf.reduce_any(mask), lambda d=domain: compute(d), lambda: zeros)
            mask = tf.reshape(mask, [-1] + [1] * (len(zeros.shape) - 1))
            result = tf.where(mask, rows, result)
        return result


def _similarities_loss(
    teacher: tf.Tensor, student: tf.Tensor, batch: Mapping[str, tf.Tensor]
) -> tf.Tensor:
    difference = pairwise.cosine_similarity(teacher) - pairwise.cosine_similarity(student)
    mean = pairwise.masked_mean(tf.square(difference), pairwise.pair_mask(batch))
    return NUM_SIMILARITIES * mean


def _check_config(context: LossContext) -> None:
    config = context.config.losses.udon
    if context.config.head.joint:
        raise UserError(
            "config.losses.udon needs a separate classifier for each domain; set "
            "config.head.joint=False"
        )
    if config.stop_gradient_at not in STOP_GRADIENT_AT:
        raise UserError(
            f"config.losses.udon.stop_gradient_at is {config.stop_gradient_at!r}; it must be one "
            f"of {', '.join(STOP_GRADIENT_AT)}"
        )
    if len(config.term_weights) != len(UDONLoss.terms) or sum(config.term_weights) <= 0:
        raise UserError(
            f"config.losses.udon.term_weights is {config.term_weights}; give a weight to each of "
            f"{', '.join(UDONLoss.terms)}"
        )

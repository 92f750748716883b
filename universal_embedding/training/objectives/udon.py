"""Online distillation from teacher heads on the student's own backbone: UDON, arXiv 2406.08332.

Each domain has a teacher: a projection of the shared features and a cosine classifier. The student
is the embedder, with a cosine classifier for each domain. The loss is the weighted mean of

- `teacher`: the teacher's cross-entropy,
- `student`: the student's,
- `logits`: KL(teacher || student) of softmax(class cosines / class_temperature),
- `similarities`: the summed squared differences of a picture's cosines to the others of its domain
  in the batch, the teacher's and the student's,

the teacher's side of the last two without gradient. With `config.distillation.student_gradient` =
`projection` these two train the student's projection and classifiers only, as in the paper; with
`backbone` they go on into the backbone.
"""

from collections.abc import Callable, Mapping

import keras
import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.models.heads.softmax import class_logits, unit_rows
from universal_embedding.training.objectives import classification, in_batch
from universal_embedding.training.objectives.base import Objective, Outputs, Setting

GRADIENTS = ("projection", "backbone")


class Loss(Objective):
    """The four losses; with `teacher` the sampler can follow it (`config.data.reweight_by`)."""

    terms = ("teacher", "student", "logits", "similarities")

    def __init__(self, setting: Setting) -> None:
        config = setting.config.distillation
        if setting.config.head.joint:
            raise UserError(
                "the objective udon has a classifier for each domain; set config.head.joint=False"
            )
        if config.student_gradient not in GRADIENTS:
            raise UserError(
                f"config.distillation.student_gradient is {config.student_gradient!r}; it must be "
                f"one of {', '.join(GRADIENTS)}"
            )
        if len(config.udon_weights) != len(self.terms) or sum(config.udon_weights) <= 0:
            raise UserError(
                f"config.distillation.udon_weights is {config.udon_weights}; give a weight to each "
                f"of {', '.join(self.terms)}"
            )
        self.stops_at_projection = config.student_gradient == "projection"
        self.temperature = config.class_temperature
        self.weights = [weight / sum(config.udon_weights) for weight in config.udon_weights]
        self.embedder, self.domains = setting.embedder, tuple(setting.class_sizes)
        self.student = classification.Loss(setting)
        self.teacher = classification.make_head(setting, config.teacher_dimension)
        self.projections = []
        for domain in self.domains:
            projection = keras.layers.Dense(
                config.teacher_dimension, use_bias=False, dtype="float32", name=f"teacher_{domain}"
            )
            projection.build((None, self.embedder.backbone.output_shape[-1]))
            self.projections.append(projection)

    def parts(self) -> dict[str, list[keras.Variable]]:
        """`head/<domain>` of the student and `teacher/<domain>`: projection and classifier."""
        weights = zip(self.domains, self.projections, self.teacher.class_weights, strict=True)
        teachers = {f"teacher/{domain}": [p.kernel, classes] for domain, p, classes in weights}
        return self.student.parts() | teachers

    def touched(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Student's classifiers and teachers: those of the domains in the batch."""
        touched = self.student.touched(batch)
        return touched | {f"teacher/{domain}": touched[f"head/{domain}"] for domain in self.domains}

    def losses(self, batch: Mapping[str, tf.Tensor], outputs: Outputs) -> tf.Tensor:
        """`[4, b]` float32: the terms, each times its share of the weights."""
        domains, student = batch["domain"], outputs.embedding
        if self.stops_at_projection:
            student = self.embedder.embed_features(tf.stop_gradient(outputs.features))
        teacher = self._teacher_embedding(tf.cast(outputs.features, tf.float32), domains)
        classified = self.teacher(
            teacher, batch["label"], domains, margin_factor=outputs.margin_factor
        )
        frozen = tf.stop_gradient(teacher)
        terms = (
            classified,
            self.student.losses(batch, outputs),
            self._logits(frozen, student, domains),
            self._similarities(frozen, student, batch),
        )
        return tf.stack([weight * term for weight, term in zip(self.weights, terms, strict=True)])

    def _teacher_embedding(self, features: tf.Tensor, domains: tf.Tensor) -> tf.Tensor:
        """`[b, F]` -> `[b, teacher_dimension]` unit rows, each by its domain's teacher."""
        nothing = tf.zeros([tf.shape(features)[0], self.projections[0].units])
        rows = self._by_domain(domains, nothing, lambda d: self.projections[d](features))
        return unit_rows(rows)

    def _logits(self, teacher: tf.Tensor, student: tf.Tensor, domains: tf.Tensor) -> tf.Tensor:
        def divergence(domain: int) -> tf.Tensor:
            of_teacher = self._log_classes(self.teacher, domain, teacher)
            of_student = self._log_classes(self.student.head, domain, student)
            of_teacher = tf.stop_gradient(of_teacher)
            return tf.reduce_sum(tf.exp(of_teacher) * (of_teacher - of_student), axis=1)

        return self._by_domain(domains, tf.zeros_like(student[:, 0]), divergence)

    def _log_classes(self, head: keras.Layer, domain: int, embedding: tf.Tensor) -> tf.Tensor:
        weights = head.class_weights[domain].value
        cosines = class_logits(embedding, weights, head.centers)
        return tf.nn.log_softmax(cosines / self.temperature, axis=1)

    def _similarities(
        self, teacher: tf.Tensor, student: tf.Tensor, batch: Mapping[str, tf.Tensor]
    ) -> tf.Tensor:
        difference = in_batch.cosines(teacher) - in_batch.cosines(student)
        return in_batch.row_sums(tf.square(difference), in_batch.comparable(batch))

    def _by_domain(
        self, domains: tf.Tensor, nothing: tf.Tensor, compute: Callable[[int], tf.Tensor]
    ) -> tf.Tensor:
        """Each row by its own domain; a domain that is not in the batch costs nothing."""
        result = nothing
        for number in range(len(self.domains)):
            here = domains == number
            rows = tf.cond(tf.reduce_any(here), lambda n=number: compute(n), lambda: nothing)
            here = tf.reshape(here, [-1] + [1] * (len(nothing.shape) - 1))
            result = tf.where(here, rows, result)
        return result

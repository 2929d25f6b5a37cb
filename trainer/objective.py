"""What is made small: cross-entropy, and what each example weighs in it."""

from dataclasses import dataclass

import keras
import tensorflow as tf

from conf import class_weights as names_of
from conf.errors import BadSpec
from conf.schema import Loss, TrainerSpec
from data_pipeline.manifest import Manifest


@dataclass(frozen=True)
class Objective:
    """Softmax cross-entropy, or focal loss, with label smoothing and class weights."""

    num_classes: int
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None
    gamma: float | None = None  # of the focal loss; None: cross-entropy
    alpha: float = 1.0

    def losses(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """The loss of each example, unweighted: [n] float32 from labels [n] and logits [n, classes]."""
        logits = tf.cast(logits, tf.float32)
        if self.gamma is not None:
            return self._focal(self._targets(labels), logits)
        if not self.label_smoothing:
            return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        return tf.nn.softmax_cross_entropy_with_logits(self._targets(labels), logits)

    def _targets(self, labels: tf.Tensor) -> tf.Tensor:
        off = self.label_smoothing / self.num_classes
        return tf.one_hot(labels, self.num_classes, 1 - self.label_smoothing + off, off)

    def _focal(self, targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """alpha * sum_c target_c * (1 - p_c)^gamma * -log p_c, as Keras's CategoricalFocalCrossentropy."""
        logs = tf.nn.log_softmax(logits)
        # No further from 0 and 1 than Keras: the power's gradient has no bound at 1.
        others = tf.clip_by_value(1 - tf.exp(logs), keras.config.epsilon(), 1 - keras.config.epsilon())
        return -self.alpha * tf.reduce_sum(targets * others**self.gamma * logs, -1)

    def weighted(self, batch: dict[str, tf.Tensor], logits: tf.Tensor) -> tf.Tensor:
        """The loss of each example times what it weighs: [n] float32.

        That is its own weight, times its class's; 0 for padding. The loss of a mixed example is that of its two labels,
        each with its weights, in their shares: without weights, the cross-entropy with the mixed targets.
        """
        losses = self.losses(batch["label"], logits) * self._weights(batch["label"], batch["weight"])
        if "mix" in batch:
            others = self.losses(batch["label2"], logits) * self._weights(batch["label2"], batch["weight2"])
            losses = batch["mix"] * losses + (1 - batch["mix"]) * others
        return losses * batch["mask"]

    def _weights(self, labels: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        if self.class_weights is None:
            return weights
        return weights * tf.gather(tf.constant(self.class_weights, tf.float32), labels)


def main_labels(batch: dict[str, tf.Tensor]) -> tf.Tensor:
    """The label of each example; of a mixed one, that with the larger share. int32 [n]."""
    if "mix" not in batch:
        return batch["label"]
    return tf.where(batch["mix"] >= 0.5, batch["label"], batch["label2"])


def make_objective(trainer: TrainerSpec, manifest: Manifest) -> Objective:
    """The objective of a recipe on a prepared set."""
    gamma, alpha = (trainer.focal_gamma, trainer.focal_alpha) if trainer.loss is Loss.focal else (None, 1.0)
    weights = class_weights(trainer, manifest)
    return Objective(manifest.num_classes, trainer.label_smoothing, weights, gamma, alpha)


def regularise(model: keras.Model, l2: float) -> None:
    """Add l2 * the sum of squares of every weight of two or more dimensions to the loss; of frozen ones nothing."""
    for variable in model.trainable_variables:
        if len(variable.shape) > 1:
            variable.regularizer = keras.regularizers.L2(l2)


def class_weights(trainer: TrainerSpec, manifest: Manifest) -> tuple[float, ...] | None:
    """The weight of each class: given by name (others weigh 1), balanced, or None. BadSpec for an unknown class."""
    if trainer.class_weights is None:
        return None
    if trainer.class_weights == "balanced":
        return balanced_weights(manifest.splits["train"].class_counts)
    given = {str(name): float(weight) for name, weight in trainer.class_weights.items()}
    if unknown := names_of.unknown(given, manifest.classes):
        raise BadSpec(unknown)
    return tuple(given.get(name, 1.0) for name in manifest.classes)


def balanced_weights(counts: list[int]) -> tuple[float, ...]:
    """num_examples / (num_classes * count) for each class, as scikit-learn's `balanced`; 0 for an empty class."""
    present = sum(count > 0 for count in counts)
    return tuple(sum(counts) / (present * count) if count else 0.0 for count in counts)

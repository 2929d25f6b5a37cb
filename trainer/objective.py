"""What is made small: cross-entropy, and what each example weighs in it."""

from dataclasses import dataclass

import tensorflow as tf

from conf.schema import TrainerSpec
from data_pipeline.manifest import Manifest


@dataclass(frozen=True)
class Objective:
    """Softmax cross-entropy with label smoothing and class weights."""

    num_classes: int
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None

    def losses(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """The loss of each example, unweighted: [n] float32 from labels [n] and logits [n, classes]."""
        logits = tf.cast(logits, tf.float32)
        if not self.label_smoothing:
            return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        off = self.label_smoothing / self.num_classes
        targets = tf.one_hot(labels, self.num_classes, 1 - self.label_smoothing + off, off)
        return tf.nn.softmax_cross_entropy_with_logits(targets, logits)

    def weights(self, batch: dict[str, tf.Tensor]) -> tf.Tensor:
        """What each example of a batch weighs: its own weight, times its class's; 0 for padding. [n] float32."""
        weights = batch["mask"] * batch["weight"]
        if self.class_weights is not None:
            weights *= tf.gather(tf.constant(self.class_weights, tf.float32), batch["label"])
        return weights


def make_objective(trainer: TrainerSpec, manifest: Manifest) -> Objective:
    """The objective of a recipe on a prepared set."""
    weights = balanced_weights(manifest.splits["train"].class_counts) if trainer.class_weights == "balanced" else None
    return Objective(manifest.num_classes, trainer.label_smoothing, weights)


def balanced_weights(counts: list[int]) -> tuple[float, ...]:
    """num_examples / (num_classes * count) for each class, as scikit-learn's `balanced`; 0 for an empty class."""
    present = sum(count > 0 for count in counts)
    return tuple(sum(counts) / (present * count) if count else 0.0 for count in counts)

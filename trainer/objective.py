"""What is made small: cross-entropy, and what each example weighs in it."""

from dataclasses import dataclass

import tensorflow as tf

from conf import rules
from conf.errors import BadSpec, Problem
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
    return Objective(manifest.num_classes, trainer.label_smoothing, class_weights(trainer, manifest))


def class_weights(trainer: TrainerSpec, manifest: Manifest) -> tuple[float, ...] | None:
    """The weight of each class: given by name (others weigh 1), balanced, or None. BadSpec for an unknown class."""
    if trainer.class_weights is None:
        return None
    if trainer.class_weights == "balanced":
        return balanced_weights(manifest.splits["train"].class_counts)
    given = {str(name): float(weight) for name, weight in trainer.class_weights.items()}
    unknown = [name for name in given if name not in manifest.classes]
    if unknown:
        law = f"the data has no class of this name, among its {manifest.num_classes}"
        raise BadSpec(
            Problem(f"trainer.class_weights.{name}", given[name], law, rules.nearest(name, manifest.classes))
            for name in unknown
        )
    return tuple(given.get(name, 1.0) for name in manifest.classes)


def balanced_weights(counts: list[int]) -> tuple[float, ...]:
    """num_examples / (num_classes * count) for each class, as scikit-learn's `balanced`; 0 for an empty class."""
    present = sum(count > 0 for count in counts)
    return tuple(sum(counts) / (present * count) if count else 0.0 for count in counts)

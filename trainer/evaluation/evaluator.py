"""Counts over a split: the loss of its examples and the confusion matrix, summed over all replicas."""

from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from trainer.evaluation.counts import Counts
from trainer.objective import Objective
from trainer.parts import Batch, sum_over_parts

#: Batches in one call of the compiled loop; a heartbeat between calls.
STEPS_PER_LOOP = 10


class Interrupted(Exception):
    """An evaluation was broken off; nothing was measured."""


class Evaluator:
    """A compiled loop over evaluation batches. Make it inside the strategy's scope."""

    def __init__(
        self, strategy: tf.distribute.Strategy, model: Callable[..., tf.Tensor], num_classes: int, lanes: int = 1
    ):
        self.strategy, self.model, self.num_classes, self.lanes = strategy, model, num_classes, lanes
        # Plain cross-entropy: label smoothing and class weights are means of training, not of measuring.
        self.objective = Objective(num_classes)
        self._loss = _summed([], "evaluation_loss")
        self._confusion = _summed([num_classes, num_classes], "evaluation_confusion")

    def measure(
        self,
        dataset: tf.data.Dataset,
        num_steps: int,
        beat: Callable[[int], None],
        ends: Callable[[], bool] | None = None,
    ) -> Counts:
        """Go through `num_steps` batches of a dataset of this worker's own shares; `beat` hears how far it is.

        Raises Interrupted when `ends`, which is asked between calls of the compiled loop, says so.
        """
        batches = self.strategy.distribute_datasets_from_function(
            lambda _: dataset.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
        )
        iterator = iter(batches)
        self._reset()
        for done in range(0, num_steps, STEPS_PER_LOOP):
            self._run(iterator, tf.constant(min(STEPS_PER_LOOP, num_steps - done)))
            beat(min(done + STEPS_PER_LOOP, num_steps))
            if ends is not None and done + STEPS_PER_LOOP < num_steps and ends():
                raise Interrupted(f"after {done + STEPS_PER_LOOP} of {num_steps} batches")
        loss, confusion = self._read()
        return Counts(float(loss), np.rint(confusion.numpy()).astype(np.int64))

    # Without AutoGraph, as in the training step: rewriting what is called here takes longer than tracing it.
    @tf.function(autograph=False)
    def _run(self, iterator: Iterator[Batch], num_steps: tf.Tensor) -> None:
        def one_more(done: tf.Tensor) -> tuple[tf.Tensor]:
            self.strategy.run(self._count, args=(next(iterator),))
            return (done + 1,)

        tf.while_loop(lambda done: done < num_steps, one_more, (tf.constant(0),))

    def _count(self, batch: Batch) -> None:
        zeros = (tf.zeros([], tf.float64), tf.zeros([self.num_classes] * 2, tf.float64))
        loss, confusion = sum_over_parts(self._counts, batch, zeros, self.lanes, self.lanes)
        self._loss.assign_add(loss)
        self._confusion.assign_add(confusion)

    def _counts(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        logits = self.model(batch["image"], training=False)
        losses = self.objective.losses(batch["label"], logits) * batch["mask"]
        found = tf.argmax(logits, -1, tf.int32)
        weights = tf.cast(batch["mask"], tf.float64)
        confusion = tf.math.confusion_matrix(batch["label"], found, self.num_classes, weights, tf.float64)
        return tf.reduce_sum(tf.cast(losses, tf.float64)), confusion

    @tf.function(autograph=False)
    def _reset(self) -> None:
        self.strategy.run(self._clear)

    def _clear(self) -> None:
        for counter in (self._loss, self._confusion):
            counter.assign(tf.zeros_like(counter))

    @tf.function(autograph=False)
    def _read(self) -> tuple[tf.Tensor, tf.Tensor]:
        loss = self.strategy.run(self._loss.read_value)
        confusion = self.strategy.run(self._confusion.read_value)
        summed = tf.distribute.ReduceOp.SUM
        return self.strategy.reduce(summed, loss, axis=None), self.strategy.reduce(summed, confusion, axis=None)


def _summed(shape: list[int], name: str) -> tf.Variable:
    """A float64 sum on every replica; whole numbers in it are exact."""
    return tf.Variable(
        tf.zeros(shape, tf.float64),
        trainable=False,
        name=name,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.SUM,
    )

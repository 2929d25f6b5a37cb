"""THE arithmetic: from a batch to an update, the same for any number of replicas and micro-batches.

The gradient of a step is that of  sum_i(w_i * loss_i) / n + regularisation  over the n real examples of the *global*
batch. Every replica adds up the gradients of its micro-batches, the sums of all replicas are added once, and what comes
out is clipped and applied once. Nothing here depends on how many replicas there are, but for dropout masks and, where
BatchNorm is not synchronized, the batches its statistics are taken over.
"""

import functools
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from conf.schema import OptimizerSpec
from trainer.averages import WeightAverages
from trainer.blown import NO_LOSSES, NOT_BLOWN, Blown, first_blown, usual_after
from trainer.clipping import clipped
from trainer.glance import Glance
from trainer.model_parts import is_partly_frozen
from trainer.objective import Objective, main_labels
from trainer.pace import Clock, Pace
from trainer.parameter_groups import Optimizers
from trainer.parts import Batch, sum_over_parts
from trainer.precision import LossScale
from trainer.seeds import seeds_of, set_apart
from trainer.segmented import SegmentedModel
from trainer.strategy import reduction_options
from trainer.xla import compiled, refusal

#: Gradients, one a trainable variable, and totals.
Sums = tuple[list[tf.Tensor], tf.Tensor]
#: What the loop adds up for each step: the loss, examples that were classified right, examples, stop requests.
NUM_TOTALS = 4


class TrainingStep:
    """A compiled loop of optimizer steps. Make it inside the strategy's scope, with a built optimizer.

    It is of one phase: what trains is fixed when it is traced. `Optimizers` clip by themselves, each group for itself:
    then `clipping` asks for nothing.

    `micro_batches` are taken one after the other in a `tf.while_loop`, or, where synchronized BatchNorm has to talk to
    the other replicas inside of one, unrolled (`unroll`). Each is cut into `lanes` parts, computed side by side.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer | Optimizers,
        objective: Objective,
        clipping: OptimizerSpec,
        micro_batches: int = 1,
        unroll: bool = False,
        loss_scale: LossScale | None = None,
        lanes: int = 1,
        averages: WeightAverages | None = None,
        clock: Clock | None = None,
        segmented: SegmentedModel | None = None,
        xla: bool = False,
        glance: Glance | None = None,
        blow_up_factor: float | None = None,
    ):
        self.strategy, self.model, self.optimizer, self.objective = strategy, model, optimizer, objective
        self.clipping, self.micro_batches, self.unroll, self.loss_scale = clipping, micro_batches, unroll, loss_scale
        self.lanes, self._is_partly_frozen, self._averages = lanes, is_partly_frozen(model), averages
        self._segmented, self._glance, self._blow_up_factor = segmented, glance, blow_up_factor
        self.clock, self.xla = clock or Clock(), xla
        self.pace = Pace(0.0, 0.0)  # of the last call of the compiled loop, on this worker
        self.blown: Blown | None = None  # the first of its steps that blew up, if one did
        self.usual = NO_LOSSES  # loss, behind them: what an explosion is told by
        # float64 sums of float32 values are exact here, so they do not depend on where a loop begins.
        self.totals = tf.Variable(
            tf.zeros([NUM_TOTALS], tf.float64),
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.SUM,
        )

    @property
    def _num_parts(self) -> int:
        return self.micro_batches * self.lanes

    @property
    def _variables(self) -> list[tf.Variable]:
        return [variable.value for variable in self.model.trainable_variables]

    # Without AutoGraph, which would rewrite every function below: half a second of each start and restart.
    @tf.function(autograph=False)
    def run(
        self, iterator: Iterator[Batch], num_steps: tf.Tensor, stop: tf.Tensor, usual: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Take `num_steps` steps; the totals over them and over all replicas, and what else is told (float64 [8]).

        That is this worker's pace, what `first_blown` found and the usual loss: these the same on every worker. `stop`
        (float64, 0 or 1) is this worker's wish to stop; the sum over workers comes back to all of them, so that they
        agree without another message. `usual` (float32 [2]) is the usual loss before these steps.
        """
        self.strategy.run(self._begin)

        def one_more(
            done: tf.Tensor, waited: tf.Tensor, own: tf.Tensor, free: tf.Tensor, blown: tf.Tensor, usual: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            batch = next(iterator)
            waited += tf.maximum(self.clock.arrived(batch) - free, 0.0)
            ready, signs = self._step(batch)
            own += ready - free
            blown = first_blown(blown, done, signs, usual, self._blow_up_factor)
            if self._blow_up_factor is not None:
                usual = usual_after(usual, signs[0])
            return done + 1, waited, own, self.clock.applied(self._variables[0]), blown, usual

        none = tf.constant(0.0, tf.float64)
        before = tf.constant(NO_LOSSES) if usual is None else usual
        begin = (tf.constant(0), none, none, self.clock.now(), tf.constant(NOT_BLOWN), before)
        _, waited, own, _, blown, usual = tf.while_loop(lambda done, *_: done < num_steps, one_more, begin)
        totals = self.strategy.run(lambda asked: self.totals.read_value() + asked * [0.0, 0.0, 0.0, 1.0], args=(stop,))
        told = tf.concat([tf.stack([waited, own]), tf.cast(tf.concat([blown, usual], 0), tf.float64)], 0)
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, totals, axis=None), told

    def _begin(self) -> None:
        self.totals.assign(tf.zeros_like(self.totals))
        if self.strategy.num_replicas_in_sync > 1:
            set_apart(seeds_of(self.model))

    def _step(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """One step; when this worker's own gradients were there, and its vital signs."""
        if self.loss_scale is None:
            own, signs = self.strategy.run(self._update, args=(batch,))
            return self._last(own), self._first(signs)
        gradients, finite, own, signs = self.strategy.run(self._unscaled_gradients, args=(batch,))
        every = self.strategy.experimental_local_results(finite)[0]
        # The condition stands outside of the replicas because an optimizer cannot leave one in the middle of a branch.
        tf.cond(every, lambda: self._apply_everywhere(gradients), lambda: tf.constant(False))
        signs = self._first(signs)  # before the scale moves
        self.strategy.run(self.loss_scale.update, args=(finite,))
        return self._last(own), signs

    def _last(self, times: tf.Tensor) -> tf.Tensor:
        return tf.reduce_max(tf.stack(self.strategy.experimental_local_results(times)))

    def _first(self, tensors: tf.Tensor) -> tf.Tensor:
        """What is the same on every replica."""
        return self.strategy.experimental_local_results(tensors)[0]

    def _update(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        gradients, loss, own = self._gradients(batch)
        norm = tf.linalg.global_norm(gradients)
        self._apply(clipped(gradients, self.clipping, norm))
        return own, tf.stack([loss, tf.cast(norm, loss.dtype)])

    def _apply_everywhere(self, gradients: list[tf.Tensor]) -> tf.Tensor:
        self.strategy.run(self._apply, args=(gradients,))
        return tf.constant(True)

    def _apply(self, gradients: list[tf.Tensor]) -> None:
        self.optimizer.apply(gradients, self.model.trainable_variables)
        if self._averages is not None:
            self._averages.update()

    def _unscaled_gradients(self, batch: Batch) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor, tf.Tensor]:
        assert self.loss_scale is not None
        gradients, loss, own = self._gradients(batch)
        gradients = [gradient / self.loss_scale.scale for gradient in gradients]
        # Of what came out, not of what clipping leaves of it: cut down to a value, an overflow looks like any other.
        norm = tf.linalg.global_norm(gradients)
        finite = tf.math.is_finite(norm)
        # An overflow that a smaller scale may cure is no blow-up: the step is skipped and nothing has moved.
        cured = tf.where(finite | self.loss_scale.can_shrink, 0.0, np.inf)
        return clipped(gradients, self.clipping, norm), finite, own, tf.stack([loss, cured])

    def _gradients(self, batch: Batch) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
        """The gradient and the loss of the global batch, reduced over replicas; when the own part was there."""
        gradients, totals = self._accumulate(batch)
        loss = tf.cast(totals[0], tf.float32)
        own = self.clock.when(gradients, totals[0])
        self.totals.assign_add(tf.concat([totals, tf.zeros([1], tf.float64)], 0))
        if self.strategy.num_replicas_in_sync > 1:
            replica = tf.distribute.get_replica_context()
            every = [*gradients, loss]
            *gradients, loss = replica.all_reduce(tf.distribute.ReduceOp.SUM, every, options=reduction_options())
        if self._glance is not None:
            scale = 1.0 if self.loss_scale is None else self.loss_scale.scale
            self._glance.see(batch, [gradient / scale for gradient in gradients])
        return gradients, loss, own

    def _accumulate(self, batch: Batch) -> Sums:
        """Gradients and totals of this replica's share, micro-batch by micro-batch, each in its lanes."""
        zeros = ([tf.zeros(v.shape, v.dtype) for v in self._variables], tf.zeros([NUM_TOTALS - 1], tf.float64))
        compute = compiled(self._micro_batch) if self.xla else self._micro_batch
        return sum_over_parts(compute, batch, zeros, self._num_parts, self.lanes, self.unroll)

    def _micro_batch(self, batch: Batch) -> Sums:
        variables = self._variables
        gradients, logits, loss = self._differentiate(batch, variables)
        dense = [
            tf.zeros(v.shape, v.dtype) if g is None else tf.convert_to_tensor(g)
            for g, v in zip(gradients, variables, strict=True)
        ]
        right = tf.cast(tf.argmax(logits, -1, tf.int32) == main_labels(batch), tf.float32) * batch["mask"]
        totals = tf.stack([loss, tf.reduce_sum(right), tf.reduce_sum(batch["mask"])])
        return dense, tf.cast(totals, tf.float64)

    def _differentiate(
        self, batch: Batch, variables: list[tf.Variable]
    ) -> tuple[list[tf.Tensor | None], tf.Tensor, tf.Tensor]:
        """The gradient of the scaled loss, the logits, the loss."""
        loss_of = functools.partial(self._losses, batch)
        if self._segmented is not None:
            return self._segmented.differentiate(batch["image"], loss_of, variables)
        # What lies below the lowest trainable layer is not even recorded.
        with tf.GradientTape(watch_accessed_variables=not self._is_partly_frozen) as tape:
            if self._is_partly_frozen:
                tape.watch(variables)
            logits = self.model(batch["image"], training=True)
            loss, scaled = loss_of(logits)
        return tape.gradient(scaled, variables), logits, loss

    def _losses(self, batch: Batch, logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """This part's share of the loss, and the same times the loss scale."""
        losses = self.objective.weighted(batch, logits)
        loss = tf.reduce_sum(losses) / tf.maximum(batch["batch_examples"], 1.0)
        if self.model.losses:
            shares = self.strategy.num_replicas_in_sync * self._num_parts
            loss += tf.add_n([tf.cast(term, tf.float32) for term in self.model.losses]) / shares
        return loss, loss if self.loss_scale is None else loss * self.loss_scale.scale


def compile_step(step: TrainingStep) -> Callable[[Iterator[Batch], int, bool], tf.Tensor]:
    """A plain-Python face of the step: (iterator, number of steps, wish to stop) -> totals."""

    def run(iterator: Iterator[Batch], num_steps: int, stop: bool) -> tf.Tensor:
        try:
            asked = tf.constant(num_steps), tf.constant(float(stop), tf.float64), tf.constant(step.usual)
            totals, told = step.run(iterator, *asked)
        except tf.errors.OpError as error:
            if step.xla and (refused := refusal(error)):
                raise refused from error
            raise
        waited, own, *blown, usual, count = (float(value) for value in told.numpy())
        step.pace, step.blown, step.usual = Pace(waited, own), Blown.of(*blown), (usual, count)
        return totals

    return run

"""Forward and backward through a model segment by segment, for rematerialisation and for several devices.

Rematerialisation (gradient checkpointing; Chen et al. 2016): the forward pass keeps only what segments hand on; the
backward pass computes each segment anew, and then its gradients. `keras.remat` and `tf.recompute_grad` would do for a
pure function. A layer is none: computed twice, BatchNorm would move its statistics twice, and dropout would draw
another mask for the gradient than for the loss. Here the second pass changes no variable, and draws from the state that
the generators had before the first.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from conf.schema import Rematerialize, TrainerSpec
from trainer.model_parts import Block
from trainer.segments import Segment
from trainer.stages import Devices, staged

#: From logits to the loss, to what the gradient is taken of (the scaled loss).
LossOf = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
#: Tensors that segments hand on, by number, and their gradients.
Tensors = dict[int, tf.Tensor]
#: The gradients of variables, by the identity of the variable.
Gradients = dict[int, tf.Tensor]


def segmented_model(
    trainer: TrainerSpec, model: keras.Model, blocks: Sequence[Block], devices: Devices | None = None
) -> "SegmentedModel | None":
    """The model as `trainer` wants it differentiated; None where that is as a whole. `devices` of several stages."""
    recomputes = trainer.rematerialize is Rematerialize.blocks
    stages = 1 if devices is None else devices.stages
    if stages == 1 and not recomputes:
        return None
    return SegmentedModel(staged(model, blocks, stages, by_block=recomputes), recomputes, devices)


class SegmentedModel:
    """A model that is run and differentiated segment by segment, each on the device of its stage.

    All segments but the last are computed twice if it `recomputes`. `devices` is None where there is one stage.
    """

    def __init__(self, segments: Sequence[tuple[Segment, int]], recomputes: bool, devices: Devices | None = None):
        self._segments = [segment for segment, _ in segments]
        self._stages = [stage for _, stage in segments]
        self._recomputes, self._devices = recomputes, devices

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The logits, as the whole model gives them."""
        tensors: Tensors = {0: images}
        for segment, stage in zip(self._segments, self._stages, strict=True):
            with self._on(stage):
                _run(segment, tensors, training)
        return tensors[self._segments[-1].outputs[0]]

    def differentiate(
        self, images: tf.Tensor, loss_of: LossOf, variables: Sequence[tf.Variable]
    ) -> tuple[list[tf.Tensor | None], tf.Tensor, tf.Tensor]:
        """Gradients of the scaled loss, one for each of `variables` (None: it has no part in it); logits; loss."""
        wanted = {id(variable) for variable in variables}
        own = [[v.value for v in s.body.trainable_variables if id(v.value) in wanted] for s in self._segments]
        lowest = next((number for number, found in enumerate(own) if found), len(own) - 1)
        tensors: Tensors = {0: images}
        backwards = []
        for number, segment in enumerate(self._segments[:-1]):
            with self._on(self._stages[number]):
                if number < lowest:  # nothing trains so far down: not even recorded
                    _run(segment, tensors)
                else:
                    backwards.append((self._stages[number], self._forward(segment, own[number], tensors)))
        with self._on(self._stages[-1]):
            upstream, gradients, logits, loss = self._last(tensors, loss_of, variables)
        found: Gradients = {id(v): g for v, g in zip(variables, gradients, strict=True) if g is not None}
        for stage, backward in reversed(backwards):
            with self._on(stage):
                backward(upstream, found)
        return [found.get(id(variable)) for variable in variables], logits, loss

    def _on(self, stage: int) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self._devices is None else self._devices.here(stage)

    def _last(
        self, tensors: Tensors, loss_of: LossOf, variables: Sequence[tf.Variable]
    ) -> tuple[Tensors, list[tf.Tensor | None], tf.Tensor, tf.Tensor]:
        """Gradients of what goes into the last segment and of the variables, logits, loss."""
        segment = self._segments[-1]
        given = [tensors[number] for number in segment.inputs]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([*given, *variables])
            (logits,) = segment.run(given)
            loss, scaled = loss_of(logits)
        gradients = tape.gradient(scaled, [*given, *variables])
        upstream = {n: g for n, g in zip(segment.inputs, gradients[: len(given)], strict=True) if g is not None}
        return upstream, gradients[len(given) :], logits, loss

    def _forward(
        self, segment: Segment, variables: Sequence[tf.Variable], tensors: Tensors
    ) -> Callable[[Tensors, Gradients], None]:
        """Run a segment; what adds its gradients, once those of its outputs are there."""
        given = [tensors[number] for number in segment.inputs]
        if self._recomputes:
            drawn_from = _generators(segment.body)
            _run(segment, tensors)
            return lambda upstream, found: _again(segment, given, variables, drawn_from, upstream, found)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([*given, *variables])
            _run(segment, tensors)
        outputs = [tensors[number] for number in segment.outputs]
        return lambda upstream, found: _add(tape, segment, given, variables, outputs, upstream, found)


def _run(segment: Segment, tensors: Tensors, training: bool = True) -> None:
    given = [tensors[number] for number in segment.inputs]
    tensors.update(zip(segment.outputs, segment.run(given, training), strict=True))


def _generators(body: keras.Model) -> list[tuple[keras.Variable, tf.Tensor]]:
    """The state of every generator of random numbers in it, which alone are whole numbers, as it is now."""
    states = [variable for variable in body.non_trainable_variables if "int" in str(variable.dtype)]
    return [(state, tf.identity(state.value)) for state in states]


def _again(
    segment: Segment,
    given: Sequence[tf.Tensor],
    variables: Sequence[tf.Variable],
    drawn_from: list[tuple[keras.Variable, tf.Tensor]],
    upstream: Tensors,
    found: Gradients,
) -> None:
    # Not before the gradients are there; and so these are other operations than the first pass's, which TensorFlow
    # would otherwise find to be the same, and keep all that the first pass computed.
    with tf.control_dependencies([upstream[number] for number in segment.outputs if number in upstream]):
        given = [tf.identity(tensor) for tensor in given]
    with tf.GradientTape(watch_accessed_variables=False) as tape, keras.StatelessScope(drawn_from):
        tape.watch([*given, *variables])
        outputs = segment.run(given)
    _add(tape, segment, given, variables, outputs, upstream, found)


def _add(
    tape: tf.GradientTape,
    segment: Segment,
    given: Sequence[tf.Tensor],
    variables: Sequence[tf.Variable],
    outputs: Sequence[tf.Tensor],
    upstream: Tensors,
    found: Gradients,
) -> None:
    """Add the gradients of a segment's variables to `found`, and those of its inputs to `upstream`."""
    reached = [(output, upstream.pop(n)) for n, output in zip(segment.outputs, outputs, strict=True) if n in upstream]
    targets, gradients = zip(*reached, strict=True)
    new = tape.gradient(list(targets), [*given, *variables], output_gradients=list(gradients))
    for key, gradient in zip(segment.inputs, new[: len(given)], strict=True):
        _sum(upstream, key, gradient)
    for variable, gradient in zip(variables, new[len(given) :], strict=True):
        _sum(found, id(variable), gradient)


def _sum(sums: dict[int, tf.Tensor], key: int, more: tf.Tensor | None) -> None:
    if more is not None:
        sums[key] = sums[key] + more if key in sums else more

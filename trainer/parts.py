"""Something summed over equal parts of a batch: micro-batches one after the other, lanes side by side."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

Batch = dict[str, tf.Tensor]


def sum_over_parts(
    compute: Callable[[Batch], Any], batch: Batch, zeros: Any, num_parts: int, at_once: int = 1, unroll: bool = False
) -> Any:
    """The sum of `compute` (tensors in the structure of `zeros`) over equal parts of a batch's examples.

    The parts are taken `at_once`, in a loop or, with `unroll`, written out one after the other. A value of `batch`
    without a first dimension belongs to every part.
    """
    if num_parts == 1:
        return compute(batch)
    size = batch["label"].shape[0] // num_parts
    if unroll:
        sums = zeros
        for number in range(num_parts):
            sums = _add(sums, compute(_part(batch, number, size)))
        return sums

    def body(number: tf.Tensor, sums: Any) -> tuple[tf.Tensor, Any]:
        return number + 1, _add(sums, compute(_part(batch, number, size)))

    start = (tf.constant(0), zeros)
    _, sums = tf.while_loop(lambda number, _: number < num_parts, body, start, parallel_iterations=at_once)
    return sums


def _part(batch: Batch, number: tf.Tensor | int, size: int) -> Batch:
    part = {}
    for name, values in batch.items():
        if values.shape.rank:
            part[name] = tf.ensure_shape(values[number * size : (number + 1) * size], [size, *values.shape[1:]])
        else:
            part[name] = values
    return part


def _add(sums: Any, more: Any) -> Any:
    return tf.nest.map_structure(tf.add, sums, more)

"""Gradients cut down to size: by value, by the norm of each variable's, by the norm of all."""

from collections.abc import Sequence

import tensorflow as tf

from conf.schema import OptimizerSpec


def clipped(gradients: Sequence[tf.Tensor], spec: OptimizerSpec, norm: tf.Tensor | None = None) -> list[tf.Tensor]:
    """The gradients as `spec` lets them through; each limit that is given holds, one after the other.

    `norm` is the global norm of what comes in, where that is known already.
    """
    found = list(gradients)
    if spec.clip_value is not None:
        limit, norm = spec.clip_value, None
        found = [tf.clip_by_value(gradient, -limit, limit) for gradient in found]
    if spec.clip_variable_norm is not None:
        found, norm = [tf.clip_by_norm(gradient, spec.clip_variable_norm) for gradient in found], None
    if spec.clip_norm is not None:
        found, _ = tf.clip_by_global_norm(found, spec.clip_norm, use_norm=norm)
    return list(found)

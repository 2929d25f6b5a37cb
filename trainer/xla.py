"""Forward and backward pass compiled by XLA: `trainer.compile=xla`.

What is compiled is the gradient of one micro-batch on one replica. Reading, accumulating, reducing and applying stay
outside, so it is the same under every strategy.
"""

import re
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from conf.errors import BadSpec
from conf.schema import Compile

#: Of TensorFlow's many lines, the operations that XLA cannot compile.
_UNSUPPORTED = re.compile(r"unsupported operations when trying to compile graph \S+ on (\S+): ([^\n]+)")
_SIGNS = ("xla", "tf2xla", "mlir_bridge", "jit_compile")


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` compiled by XLA. Make a new one in each replica: what is traced belongs to the replica's variables."""
    return tf.function(function, jit_compile=True, autograph=False)


def refusal(error: tf.errors.OpError) -> BadSpec | None:
    """What to tell where XLA could not compile the step; None where the error is of another kind."""
    said = str(error)
    unsupported = _UNSUPPORTED.search(said)
    if unsupported:
        why = f"XLA cannot compile {unsupported[2].strip()[:300]}"
    elif isinstance(error, tf.errors.InvalidArgumentError | tf.errors.UnimplementedError) and _is_of_xla(said):
        why = f"XLA cannot compile this step: {_cause(said)}"
    else:
        return None
    return BadSpec.of("trainer.compile", Compile.xla, why, "trainer.compile=none")


def _is_of_xla(said: str) -> bool:
    return any(sign in said.lower() for sign in _SIGNS)


def _cause(said: str) -> str:
    """The first line that says anything."""
    lines = (line.strip() for line in said.splitlines())
    return next((line for line in lines if line and not line.startswith(("Detected at", "File ", "[["))), "")[:300]

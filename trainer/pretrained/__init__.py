"""Weights that a training begins with: from Keras's own download, a file of Keras's, or another run.

What was loaded, what was not, and why, is listed by name; where nothing fits at all the job is refused.
"""

import logging
from typing import Any

import keras

from conf.errors import BadSpec
from conf.schema import ModelSpec
from trainer.channel import Channel
from trainer.models.application import imagenet
from trainer.models.constants import refresh
from trainer.pretrained.matching import Report, layers_of_model, place
from trainer.pretrained.scaling import folded
from trainer.pretrained.sources import Unreadable, layers_at

log = logging.getLogger(__name__)

#: Names of a kind in the event; the log has all of them.
_SHOWN = 20


def load(model: keras.Model, spec: ModelSpec, channel: Channel) -> Report | None:
    """Put the weights that `spec.weights` names into `model`, and tell what became of each; None for `none`.

    The head is loaded where it fits too. Raises BadSpec where there are no such weights, or none of them fits.
    """
    if spec.weights == "none":
        return None
    try:
        if spec.weights == "imagenet":
            report = place(model, folded(layers_of_model(imagenet(spec)), spec))
        else:
            with layers_at(spec.weights) as layers:
                report = place(model, folded(layers, spec))
    except Unreadable as error:
        cure = "give a .weights.h5, .h5 or .keras file, or a run of Convoy or one of its checkpoints, by path or URL"
        raise BadSpec.of("trainer.model.weights", spec.weights, str(error), cure) from error
    refresh(model)
    for line in report.lines():
        log.info("%s", line)
    if not report.loaded:
        law = f"none of its weights fits {spec.name}: {report.summary()}"
        raise BadSpec.of("trainer.model.weights", spec.weights, law, "weights of the same model, or none")
    channel.say("event", event="weights_loaded", details=_details(spec, report))
    return report


def _details(spec: ModelSpec, report: Report) -> dict[str, Any]:
    kinds = {"missing": report.missing, "mismatched": report.mismatched, "skipped": report.skipped}
    lists = {kind: names[:_SHOWN] for kind, names in kinds.items()}
    counts = {f"num_{kind}": len(names) for kind, names in kinds.items()}
    words = f"weights from {spec.weights}: {report.summary()}"
    return {"weights": spec.weights, "num_loaded": len(report.loaded), **counts, **lists, "words": [words]}

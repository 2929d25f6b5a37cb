"""What trainer.class_weights may be: by itself, and for data of which the classes are known."""

import math
from collections.abc import Sequence
from typing import Any

from conf.errors import Problem
from conf.words import nearest

KEY = "trainer.class_weights"


def problems(weights: Any) -> list[Problem]:
    """What is wrong with class weights whatever the data are. `weights` is whatever the user wrote."""
    cure = f"{KEY}=balanced, or {KEY}={{cat: 2.0, dog: 1.0}}"
    if weights in (None, "balanced"):
        return []
    if not isinstance(weights, dict) or not weights:
        return [Problem(KEY, weights, "class weights are null or balanced, or a number for each class", cure)]
    law = "the weight of a class is a number, 0 or more"
    return [
        Problem(f"{KEY}.{name}", weight, law, cure)
        for name, weight in weights.items()
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf
    ]


def unknown(weights: Any, classes: Sequence[str]) -> list[Problem]:
    """A problem for each name that is none of the data's classes."""
    if not isinstance(weights, dict):
        return []
    law = f"the data has no class of this name, among its {len(classes)}"
    strange = {str(name): weight for name, weight in weights.items() if str(name) not in classes}
    return [Problem(f"{KEY}.{name}", float(weight), law, nearest(name, classes)) for name, weight in strange.items()]

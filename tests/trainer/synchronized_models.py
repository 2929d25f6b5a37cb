"""A model of keras.applications whose BatchNorms are synchronized, on two replicas: what plain Keras does on one.

Fifty BatchNorms make much of roundings, so it is compared with how far the weights travelled. `make models`.
"""

import numpy as np
import pytest

from tests.trainer import test_replicas
from tests.trainer.arithmetic import APPLICATIONS, by_keras, new_model, weights_of

#: Of the way that an array has gone.
TOLERANCE = 0.01


@pytest.mark.timeout(600)
def test_mobilenetv2_on_two_replicas_is_mobilenetv2_on_one(tmp_path):
    running = {group: test_replicas.start(group, tmp_path / group[0], *APPLICATIONS) for group in groups_in(tmp_path)}
    for name, case in APPLICATIONS.items():
        expected, begun = by_keras(case), weights_of(new_model(case))
        for group, started in running.items():
            for found in test_replicas.finish(group, *started):
                for path, value in expected.items():
                    travelled = np.abs(value - begun[path]).max()
                    difference = np.abs(found[f"{name}:{path}"] - value).max()
                    assert difference <= TOLERANCE * travelled + 1e-6, (
                        f"{group}: {path} {difference:.2g} of {travelled:.2g}"
                    )


def groups_in(folder):
    """Two Mirrored replicas and two worker processes, each with a folder for its files."""
    for group in test_replicas.OF_TWO:
        (folder / group[0]).mkdir()
    return test_replicas.OF_TWO

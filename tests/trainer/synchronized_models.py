"""A model of keras.applications whose BatchNorms are synchronized, on two replicas: what plain Keras does on one.

Fifty BatchNorms make much of roundings, so one step is compared with how far it went. `make models`.
"""

import numpy as np
import pytest

from tests.trainer import test_replicas
from tests.trainer.arithmetic import APPLICATIONS, by_keras, new_model, weights_of

#: Of the way that an array has gone, of its largest value, and of nothing.
TOLERANCES = 2e-3, 3e-7, 1e-7


@pytest.mark.timeout(600)
def test_mobilenetv2_on_two_replicas_is_mobilenetv2_on_one(tmp_path):
    running = {
        group: test_replicas.start(group, folder_of(tmp_path, group), *APPLICATIONS) for group in test_replicas.OF_TWO
    }
    for name, case in APPLICATIONS.items():
        expected, begun = by_keras(case), weights_of(new_model(case))
        travelled = {path: np.abs(value - begun[path]).max() for path, value in expected.items()}
        for group, started in running.items():
            for found in test_replicas.finish(group, *started):
                for path, value in expected.items():
                    share, of_value, least = TOLERANCES
                    limit = share * travelled[path] + of_value * np.abs(value).max() + least
                    difference = np.abs(found[f"{name}:{path}"] - value).max()
                    assert difference <= limit, f"{group}: {path} {difference:.2g} of {travelled[path]:.2g}"
        moved = [path for path, way in travelled.items() if way > 1e-3 * np.abs(expected[path]).max()]
        assert len(moved) > 0.9 * len(expected), "the reference hardly learnt anything"


def folder_of(root, group):
    """A folder for the files of a group."""
    folder = root / group[0]
    folder.mkdir()
    return folder

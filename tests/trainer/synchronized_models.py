"""A model of keras.applications whose BatchNorms are synchronized, on two replicas: what plain Keras does on one.

One step in float64, where roundings do not hide faults: `make models`.
"""

from pathlib import Path

import numpy as np
import pytest

from tests.trainer import test_replicas
from tests.trainer.arithmetic import APPLICATIONS, by_keras, new_model, weights_of

#: Of the way that an array has gone; the loss is float32. The gradient of some is 0.
TOLERANCE, NOTHING = 1e-5, 1e-12


@pytest.mark.timeout(1200)
def test_mobilenetv2_on_two_replicas_is_mobilenetv2_on_one(tmp_path):
    groups = test_replicas.OF_TWO
    running = {group: test_replicas.start(group, folder_of(tmp_path, group), *APPLICATIONS) for group in groups}
    for name, case in APPLICATIONS.items():
        expected, begun = by_keras(case), weights_of(new_model(case))
        ways = {path: np.abs(value - begun[path]).max() for path, value in expected.items()}
        assert sum(way > 1e-5 for way in ways.values()) > 0.8 * len(ways), "the reference hardly learnt anything"
        for group, started in running.items():
            for found in test_replicas.finish(group, started):
                for path, value in expected.items():
                    difference = np.abs(found[f"{name}:{path}"] - value).max()
                    limit = TOLERANCE * ways[path] + NOTHING
                    assert difference <= limit, f"{group}: {path} differs by {difference:.2g} of {ways[path]:.2g}"


def folder_of(root: Path, group: tuple[str, int]) -> Path:
    """A folder for the files of a group."""
    folder = root / group[0]
    folder.mkdir()
    return folder

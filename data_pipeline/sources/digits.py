"""scikit-learn's 1797 scans of handwritten digits, 8x8 pixels: real images that need no download."""

from importlib.metadata import distribution

import numpy as np

from conf.schema import DataSpec
from data_pipeline.sources import ALL, Example, Source


def examples(data: DataSpec, seed: int) -> Source:
    """All digits, not split. Their 17 grey levels are spread over 0..255."""
    # The file that sklearn.datasets.load_digits reads; importing sklearn takes longer than all the rest of preparing.
    table = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    rows = np.loadtxt(str(table), delimiter=",", dtype=np.int64)
    pixels = np.rint(rows[:, :64].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = rows[:, 64].tolist()
    digits = [Example(pixels[index], label, f"{index:04d}") for index, label in enumerate(labels)]
    return Source([str(digit) for digit in range(10)], {ALL: digits})

"""MNIST: 70,000 handwritten digits, 28x28 grey; as published, or a folder of IDX files or an .npz."""

from conf.schema import DataSpec
from data_pipeline.arrays import array_source, read_idx, read_npz
from data_pipeline.published import MNIST, fetch
from data_pipeline.sources import Source, local_source

_CLASSES = [str(digit) for digit in range(10)]


def examples(data: DataSpec, seed: int) -> Source:
    """Its official training and test examples."""
    path = fetch(MNIST) if data.path is None else local_source(data, "MNIST's IDX files or an .npz")
    arrays = read_idx(path) if path.is_dir() else read_npz(path)[0]
    return array_source(arrays, _CLASSES, str(path))

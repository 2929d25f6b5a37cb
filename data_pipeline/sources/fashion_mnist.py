"""Fashion-MNIST: 70,000 pieces of clothing, 28x28 grey; as published, or a folder of IDX files or an .npz."""

from conf.schema import DataSpec
from data_pipeline.arrays import array_source, read_idx, read_npz
from data_pipeline.published import FASHION_MNIST, fetch
from data_pipeline.sources import Source, local_source

_CLASSES = [
    "t-shirt or top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
]


def examples(data: DataSpec, seed: int) -> Source:
    """Its official training and test examples."""
    if data.path is None:
        path = {fetch(file).parent for file in FASHION_MNIST}.pop()
    else:
        path = local_source(data, "Fashion-MNIST's IDX files or an .npz")
    arrays = read_idx(path) if path.is_dir() else read_npz(path)[0]
    return array_source(arrays, _CLASSES, str(path))

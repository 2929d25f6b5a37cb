"""CIFAR-10: 60,000 photographs of 10 classes, 32x32; as published, or the archive, its folder or an .npz."""

from conf.schema import DataSpec
from data_pipeline.arrays import array_source, read_npz
from data_pipeline.cifar_archive import read_cifar
from data_pipeline.published import CIFAR10, fetch
from data_pipeline.sources import Source, local_source

_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def examples(data: DataSpec, seed: int) -> Source:
    """Its official training and test examples."""
    path = fetch(CIFAR10) if data.path is None else local_source(data, "the CIFAR-10 archive, its folder or an .npz")
    arrays, classes = read_npz(path) if path.suffix == ".npz" else read_cifar(path, 10)
    return array_source(arrays, classes or _CLASSES, str(path))

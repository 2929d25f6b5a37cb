"""Arrays in one .npz file: x_train, y_train and so on, or x and y."""

from conf.schema import DataSpec
from data_pipeline.arrays import array_source, read_npz
from data_pipeline.sources import Source, local_source


def examples(data: DataSpec, seed: int) -> Source:
    """The images of the file; it may name its classes in an array `classes`."""
    arrays, classes = read_npz(local_source(data, "an .npz file"))
    return array_source(arrays, classes, data.path)

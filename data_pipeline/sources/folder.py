"""A folder of images: DIR/class/image, or DIR/{train,validation,test}/class/image."""

import os
from pathlib import Path

from conf.errors import BadSpec
from conf.schema import DataSpec
from data_pipeline.sources import ALL, Example, Source, local_source
from storage.source_files import image_names

READS_NO_FILE = True
_SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}


def examples(data: DataSpec, seed: int) -> Source:
    """Every image below the folder. Its class is the name of the folder; classes are sorted by name."""
    root = local_source(data, "a folder of images")
    if not root.is_dir():
        raise BadSpec.of("data.path", data.path, "this is a file, not a folder", "give the folder above it")
    folders = {split: _classes(folder) for split, folder in _split_folders(root).items()}
    classes = sorted({name for found in folders.values() for name in found})
    if not classes:
        law = "there is no image in the folders below it" if any(root.iterdir()) else "the folder is empty"
        raise BadSpec.of("data.path", data.path, law, "one folder a class, with images in it: DIR/class/image.jpg")
    labels = {name: label for label, name in enumerate(classes)}
    at = len(f"{root}/")
    splits = {
        split: [Example(path, labels[name], path[at:]) for name in sorted(found) for path in found[name]]
        for split, found in folders.items()
    }
    return Source(classes, splits)


def _split_folders(root: Path) -> dict[str, Path]:
    """The folder of each split, when `root` has folders of splits and no others, `train` among them."""
    names = [entry.name for entry in _folders(root)]
    if "train" not in names or not set(names) <= set(_SPLITS):
        return {ALL: root}
    found: dict[str, Path] = {}
    for name in names:
        split = _SPLITS[name]
        if split in found:
            law = f"{found[split].name}/ and {name}/ both are the {split} split"
            raise BadSpec.of("data.path", root, law, "keep one of them")
        found[split] = root / name
    return found


def _folders(root: Path) -> list[os.DirEntry[str]]:
    with os.scandir(root) as entries:
        found = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    return sorted(found, key=lambda entry: entry.name)


def _classes(folder: Path) -> dict[str, list[str]]:
    """The images of each class, sorted; folders without an image are no class."""
    found = {entry.name: _images(entry.path) for entry in _folders(folder)}
    return {name: paths for name, paths in found.items() if paths}


def _images(folder: str) -> list[str]:
    """Plain strings: a Path for each of a million files takes longer than reading many of them."""
    names = image_names(folder)
    names.sort(key=(lambda name: name.split("/")) if any("/" in name for name in names) else None)
    return [f"{folder}/{name}" for name in names]

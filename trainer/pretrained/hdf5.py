"""The layers and arrays in an HDF5 file of weights, whichever Keras wrote it.

Keras 3 (.weights.h5, and inside a .keras file)     .../layers/<class>_<n>/vars/{0,1,...}, vars has the layer's name
Keras 2 and `save("x.h5")`                          attributes layer_names, and of each layer weight_names, root or
                                                    model_weights
"""

from collections.abc import Iterator

import h5py
import numpy as np

from trainer.pretrained.matching import Layers, Path, Stored

VARS = "vars"
#: A group in which Keras 3 keeps the layers of a model; its name is no layer's.
_LAYERS = "layers"
_OPTIMIZER = "optimizer"
#: How Keras names the state of random draws, which is no weight.
SEEDS = "seed_generator"


def read_layers(file: h5py.File) -> Layers:
    """Every layer with its arrays, unread. ValueError for what no file of weights has."""
    if "model_weights" in file:
        return dict(_old_layers(_group(file, "model_weights")))
    if "layer_names" in file.attrs or "layer_names0" in file.attrs:
        return dict(_old_layers(file))
    found = dict(_layers(file, ()))
    if not found:
        raise ValueError("there are no weights in it as Keras writes them")
    return found


def _layers(group: h5py.Group, path: Path) -> Iterator[tuple[Path, dict[str, Stored]]]:
    """What Keras 3 wrote below `group`, whose own layer is `path`."""
    for key in group:
        child = _inside(group, key)
        if not isinstance(child, h5py.Group) or key.startswith(SEEDS) or (not path and key == _OPTIMIZER):
            continue
        if key == VARS:
            if path:
                yield path, {name: _stored(child, name) for name in child}
        elif key == _LAYERS:
            yield from _layers(child, path)
        else:
            yield from _layers(child, (*path, _name(child, key)))


def _name(group: h5py.Group, key: str) -> str:
    """The layer's own name where the file has it; else that of its class and number, which Keras would make up."""
    name = _group(group, VARS).attrs.get("name") if VARS in group else None
    return name if isinstance(name, str) else key


def _old_layers(group: h5py.Group) -> Iterator[tuple[Path, dict[str, Stored]]]:
    for layer in _names(group, "layer_names"):
        inside = _group(group, layer)
        leaves: dict[Path, list[str]] = {}
        for weight in _names(inside, "weight_names"):
            leaves.setdefault(tuple(weight.split("/")[:-1]), []).append(weight)
        if not leaves:
            yield (layer,), {}
        for path, weights in leaves.items():
            # Keras 2 gave a layer's variables a prefix of their own making; where there is but one it tells nothing.
            whole = (layer,) if len(leaves) == 1 and (not path or layer in path) else (layer, *path)
            yield whole, {str(number): _stored(inside, weight) for number, weight in enumerate(weights)}


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """A list of names, which Keras cuts into pieces where it is too long for one attribute."""
    pieces = [group.attrs[attribute]] if attribute in group.attrs else []
    while f"{attribute}{len(pieces)}" in group.attrs:
        pieces.append(group.attrs[f"{attribute}{len(pieces)}"])
    names = [name.decode() if isinstance(name, bytes) else name for piece in pieces for name in np.asarray(piece)]
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"its {attribute} are no names")
    return names


def _group(parent: h5py.Group, name: str) -> h5py.Group:
    found = _inside(parent, name)
    if not isinstance(found, h5py.Group):
        raise ValueError(f"{name} is not a group")
    return found


def _stored(parent: h5py.Group, name: str) -> Stored:
    """An array that lies in this file as it is, not in another that it points to."""
    dataset = _inside(parent, name)
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"{name} is not an array")
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{name} points to another file")

    def read() -> np.ndarray:
        if dataset.attrs.get("dtype") == "bfloat16":
            return np.asarray(dataset).view(np.uint16).astype(np.uint32).__lshift__(16).view(np.float32)
        if dataset.dtype.kind not in "fiu":
            raise ValueError(f"{name} holds {dataset.dtype}, not numbers")
        return np.asarray(dataset)

    return Stored(tuple(dataset.shape), read)


def _inside(parent: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    """What `parent` holds under `name`, one level after the other, links to elsewhere refused."""
    found = parent
    for part in name.split("/"):
        if not isinstance(found, h5py.Group) or not part or part not in found:
            raise ValueError(f"{name} is not in {parent.name}")
        if not isinstance(found.get(part, getlink=True), h5py.HardLink):
            raise ValueError(f"{name} is a link to another place")
        found = found[part]
    return found

"""Published data sets, fetched once into the folder in which Keras keeps them too."""

import hashlib
import os
import secrets
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

_KERAS_FILES = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
_CIFAR_FILES = "https://www.cs.toronto.edu/~kriz/"
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Published:
    """A file on the net, its name below ~/.keras/datasets, and its sha256 where one was published."""

    url: str
    name: str
    sha256: str | None = None


MNIST = Published(
    f"{_KERAS_FILES}mnist.npz", "mnist.npz", "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
)
FASHION_MNIST = [
    Published(f"{_KERAS_FILES}{name}", f"fashion-mnist/{name}")
    for name in (
        "train-labels-idx1-ubyte.gz",
        "train-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
        "t10k-images-idx3-ubyte.gz",
    )
]
CIFAR10 = Published(
    f"{_CIFAR_FILES}cifar-10-python.tar.gz",
    "cifar-10-batches-py-target_archive",
    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
)
CIFAR100 = Published(
    f"{_CIFAR_FILES}cifar-100-python.tar.gz",
    "cifar-100-python-target_archive",
    "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
)


class NotFetched(OSError):
    """A published file could not be fetched."""


def fetch(published: Published) -> Path:
    """The file on this machine, fetched if it is not there yet."""
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    path = home / "datasets" / published.name
    if not path.exists():
        _download(published, path)
    if published.sha256 and hashlib.sha256(path.read_bytes()).hexdigest() != published.sha256:
        raise NotFetched(f"{path}: not what was published (its sha256 differs) - remove it and start again")
    return path


def _download(published: Published, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}.unfinished")
    try:
        with urllib.request.urlopen(published.url, timeout=_TIMEOUT_S) as response, unfinished.open("wb") as file:
            while chunk := response.read(1 << 20):
                file.write(chunk)
        os.replace(unfinished, path)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        cure = "connect this machine to the net, or give a local copy with data.path"
        raise NotFetched(f"{published.url}: cannot be fetched - {reason} - {cure}") from error
    finally:
        unfinished.unlink(missing_ok=True)

"""A third store in one file, as somebody would add it: shelf:///PATH, a folder that counts as far away."""

from pathlib import Path

from storage.local import LocalStore
from storage.names import checked_name
from storage.store import Store


def open(url: str) -> Store:
    """The store at shelf:///PATH."""
    return ShelfStore(url)


class ShelfStore(LocalStore):
    """Does what a folder does, and does not say where."""

    def __init__(self, url: str):
        super().__init__(Path(url.removeprefix("shelf://")))
        self.url = url

    def local_path(self, name: str) -> Path | None:
        """None: the objects are far away."""
        checked_name(self.url, name)
        return None

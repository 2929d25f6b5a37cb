"""The TensorBoard files of far runs on this machine, kept up to date.

A run in a far store draws each curve into many objects, whose names sort in the order they were written. Here each
curve is one file that grows by what is new, which is what TensorBoard follows best.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from storage.names import checked_name
from storage.run_dir import TENSORBOARD
from storage.store import Store, open_store

RUNS_AT_ONCE = 8
#: Below it lie the traces of TensorBoard's profiler.
PROFILES = "plugins/profile/"
FILE = "events.out.tfevents.0000000000.all"


class Mirror:
    """Brings the curves of one run, or of all runs of a storage root, into `folder`."""

    def __init__(self, root_url: str, run_id: str | None, folder: Path):
        self._store, self._run_id, self._folder = open_store(root_url), run_id, folder
        self._last: dict[str, str] = {}  # curve -> the object of it that came last

    def pull(self) -> int:
        """Fetch what is new; how many objects that was. Raises StoreError."""
        with ThreadPoolExecutor(RUNS_AT_ONCE) as pool:
            return sum(pool.map(self._pull, self.runs()))

    def runs(self) -> list[str]:
        """The runs that are looked at: those that may have curves."""
        return [self._run_id] if self._run_id else list(run_ids(self._store))

    def _pull(self, run_id: str) -> int:
        count, prefix = 0, f"{run_id}/{TENSORBOARD}/"
        for stored in self._store.list(prefix):
            curve, _, name = stored.name.removeprefix(prefix).rpartition("/")
            # Of one run a single folder, of several one each.
            place = checked_name(str(self._folder), "/".join(filter(None, ("" if self._run_id else run_id, curve))))
            if PROFILES in f"{curve}/":
                count += self._fetch(place, name, stored.name)
            elif "tfevents" in name and name > self._last.get(place, ""):
                self._append(place, self._store.get(stored.name))
                self._last[place] = name
                count += 1
        return count

    def _fetch(self, place: str, name: str, stored: str) -> int:
        """A trace for the profiler, which is written once."""
        path = self._folder / checked_name(str(self._folder), f"{place}/{name}")
        if path.exists():
            return 0
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self._store.get(stored))
        return 1

    def _append(self, place: str, data: bytes) -> None:
        path = self._folder / place / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(data)


def run_ids(store: Store) -> Iterator[str]:
    """The runs of a storage root: its folders but those of prepared data and contact sheets."""
    return (name for name in store.list_folders() if not name.startswith((".", "_", "inspect-")))

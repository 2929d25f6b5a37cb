"""Rules of the data that a job reads, across fields."""

from conf import augment_rules
from conf.errors import Problem
from conf.schema import DataSpec, SplitSpec

#: What data.path names for the sources that need one.
PATHS = {"folder": "DIR", "csv": "FILE.csv", "npz": "FILE.npz", "tfrecord": "URL"}


def problems(data: DataSpec) -> list[Problem]:
    """Everything that is wrong with where the data is and what is done to it; shares of splits aside."""
    found = []
    if data.channels not in (1, 3):
        found.append(Problem("data.channels", data.channels, "images are grey (1) or RGB (3)", "data.channels=3"))
    if data.name in PATHS and data.path is None:
        cure = f"data={data.name} data.path={PATHS[data.name]}"
        found.append(Problem("data.path", None, f"data={data.name} reads from a path", cure))
    for name, count in (("data.memory_bytes", data.memory_bytes), ("data.max_corrupt", data.max_corrupt)):
        if count < 0:
            found.append(Problem(name, count, "must be at least 0", f"{name}=0 switches it off"))
    return found + augment_rules.problems(data)


def split_problems(split: SplitSpec) -> list[Problem]:
    """What is wrong with the shares that a source without splits of its own is cut into."""
    shares = (split.train, split.validation, split.test)
    if min(shares) < 0 or not abs(sum(shares) - 1) <= 1e-6 or split.train == 0:
        law = "shares are at least 0, train's is above 0, and together they are 1"
        return [Problem("data.split", ":".join(map(str, shares)), law, "data.split.train=0.7 and so on")]
    return []

"""What is installed here, and has to be the same on every host."""

import functools
import hashlib
import importlib.metadata
import platform
from pathlib import Path

from launcher.child import ROOT

#: Whose source a worker runs.
PACKAGES = ("conf", "storage", "data_pipeline", "trainer", "launcher")
NAMES = {"ray": "ray", "tensorflow": "tensorflow", "keras": "keras", "convoy": "convoy-training"}


def versions() -> dict[str, str]:
    """Versions by name, and the digest of our own source."""
    return (
        {"python": platform.python_version()}
        | {name: _version(package) for name, package in NAMES.items()}
        | {"code": code_digest(Path(ROOT))}
    )


@functools.cache
def code_digest(root: Path) -> str:
    """A digest of every Python file of ours below `root`, names and contents."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:12]


@functools.cache
def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"

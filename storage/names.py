"""Which names a store accepts, and what its errors look like."""

import contextlib
import errno
from collections.abc import Iterator

from storage.store import NotStored, StoreError, StoreFull

#: Ends the name of a file that is still being written. Such names are never listed and never accepted.
UNFINISHED = ".unfinished"

_CURES = {
    errno.ENOSPC: "the disk is full: free some space or choose another storage.root",
    errno.EDQUOT: "the disk quota is used up: free some space or choose another storage.root",
    errno.EFBIG: "the file is larger than this process may write: see `ulimit -f`",
    errno.EACCES: "no permission: check the owner and the mode of the folder",
    errno.EPERM: "not permitted here: storage.root needs a file system with hard links that this user may write to",
    errno.EOPNOTSUPP: "not supported here: storage.root needs a file system with hard links",
    errno.EROFS: "the file system is read-only: choose another storage.root",
    errno.ENOTDIR: "a part of the path is a file: choose another name or move that file",
}


def checked_name(url: str, name: str) -> str:
    """The name, if it stays inside the store: relative, forward slashes, no `.` or `..` or empty part."""
    if any(part in ("", ".", "..") for part in name.split("/")) or _is_strange(name):
        raise StoreError(f"{url}: name={name!r} - names are relative, without '..' or empty parts - mend the name")
    return name


def checked_prefix(url: str, prefix: str) -> str:
    """The same for the beginning of a name, which may be empty and may end anywhere."""
    if prefix.startswith("/") or any(part in (".", "..") for part in prefix.split("/")) or _is_strange(prefix):
        raise StoreError(f"{url}: prefix={prefix!r} - prefixes are relative, without '..' - mend the prefix")
    return prefix


def disk_error(what: str, url: str, error: OSError) -> StoreError:
    """The StoreError for a failed system call: url, what was tried, the cause and the cure."""
    if isinstance(error, FileNotFoundError):
        if what == "put":  # a file system that makes no folders (/proc), or a file to copy that is gone
            return NotStored(f"{url}: cannot put - no such file or folder, and none can be made there - check the path")
        return NotStored(f"{url}: cannot {what} - there is no such object - check the name")
    cure = _CURES.get(error.errno or 0, "look at the disk or the network file system")
    kind = StoreFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreError
    return kind(f"{url}: cannot {what} - {error.strerror or error} - {cure}")


@contextlib.contextmanager
def disk_errors(what: str, url: str) -> Iterator[None]:
    """Within it a failed system call is such a StoreError."""
    try:
        yield
    except OSError as error:
        raise disk_error(what, url, error) from error


def _is_strange(name: str) -> bool:
    return "\0" in name or "\\" in name or name.endswith(UNFINISHED)

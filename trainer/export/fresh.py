"""Names for what is written beside its place, and the exchange that puts it there as a whole.

Several commands may export the same run at the same time. Each writes under a name of its own, and the last one stays.
"""

import contextlib
import errno
import os
import secrets
import shutil
import time
from pathlib import Path

PREFIX = "part-"
#: Nobody writes for so long: what is older was left by a process that was killed.
LEFT_S = 86400.0


def fresh_path(final: Path) -> Path:
    """A name beside `final`, with the same ending, that is nobody else's. What killed ones left long ago is removed."""
    for left in final.parent.glob(f"{PREFIX}*-{final.name}"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > LEFT_S:
                remove(left)
    return final.with_name(f"{PREFIX}{secrets.token_hex(4)}-{final.name}")


def replace_folder(folder: Path, fresh: Path) -> None:
    """Put `fresh` in the place of `folder`, which is never there in part."""
    while True:
        old = fresh_path(folder)
        with contextlib.suppress(FileNotFoundError):
            folder.rename(old)
        try:
            fresh.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # else another one was there first: ours is newer
                with contextlib.suppress(OSError):
                    old.rename(folder)
                raise
        else:
            return
        finally:
            remove(old)


def remove(path: Path) -> None:
    """Remove a file or a folder; no error when it is gone already."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

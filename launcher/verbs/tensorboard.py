"""job=tensorboard: the curves of run_id, or of all runs of storage.root, in TensorBoard on this machine.

Far runs are brought here first and kept up to date; Ctrl-C ends all of it.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from conf.errors import BadSpec
from conf.exit_codes import FAILED
from conf.schema import JobSpec
from launcher.board import Board, NoBoard, board
from launcher.compose import Asked
from launcher.console import Console, refuse, show
from launcher.interrupts import interrupts
from launcher.mirror import Mirror, run_ids
from launcher.saved import existing_run
from storage.run_dir import TENSORBOARD
from storage.staging import Staging
from storage.store import StoreError, open_store

logger = logging.getLogger(__name__)
PULL_S = 5.0
LOOK_S = 0.5


def run(asked: Asked) -> int:
    """Show the curves until somebody has seen enough."""
    job = asked.job if asked.job.run_id is None else existing_run(asked)[1]
    _check_runs(job)
    if job.dry_run:
        show(f"would show the curves of {_what(job)}")
        return 0
    with interrupts(), Staging() as folder:
        try:
            return _show(job, folder)
        except KeyboardInterrupt:
            return 0  # how it is meant to end


def _show(job: JobSpec, folder: Path) -> int:
    near, curves = _near(job), folder / "curves"
    curves.mkdir()
    pull = (lambda: 0) if near else Mirror(job.storage.root, job.run_id, curves).pull
    try:
        with board(near or str(curves), job.tensorboard.port, folder / "log") as started:
            found = pull()  # while TensorBoard starts
            started.wait_until_it_answers()
            console = Console()
            console.say(f"TensorBoard shows {_what(job)}: {started.url} (Ctrl-C ends it)")
            if not near and not found:
                console.say("there are no curves yet; they are shown when they come")
            _follow(started, pull)
    except NoBoard as error:
        refuse(error)
    return FAILED


def _follow(started: Board, pull: Callable[[], int]) -> None:
    """Until TensorBoard ends, which it does not by itself."""
    pulled = time.monotonic()
    while True:
        started.check()
        time.sleep(LOOK_S)
        if time.monotonic() - pulled >= PULL_S:
            try:
                pull()
            except StoreError as error:
                logger.warning("no news: %s", error)
            pulled = time.monotonic()


def _near(job: JobSpec) -> str | None:
    """The folder that TensorBoard can read as it is; None where the runs are far away."""
    path = open_store(job.storage.root).local_path(f"{job.run_id}/{TENSORBOARD}" if job.run_id else "runs")
    if path is None:
        return None
    return str(path if job.run_id else path.parent)


def _what(job: JobSpec) -> str:
    return f"run {job.run_id}" if job.run_id else f"all runs in {job.storage.root}"


def _check_runs(job: JobSpec) -> None:
    if job.run_id is None and not any(True for _ in run_ids(open_store(job.storage.root))):
        law = "there is no run here"
        raise BadSpec.of("storage.root", job.storage.root, law, "storage.root says where runs are; job=train makes one")

"""The checkpoints of a run as a list: `python -m trainer.inventory --job URL`, without TensorFlow.

What `job=checkpoints` runs. It may verify every byte, and prune as the training would.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from conf.errors import BadSpec
from conf.exit_codes import BAD_SPEC, DONE, FAILED
from conf.files import load_job
from conf.schema import JobSpec
from data_pipeline.progress import send
from storage.run_dir import RunDir
from storage.store import StoreError, open_store
from trainer.checkpoints import list_checkpoints, newest_state, prune
from trainer.retention import Retention, needed_by

log = logging.getLogger(__name__)


def take(job: JobSpec) -> dict[str, Any]:
    """What is there, oldest first, and the steps of those that were removed."""
    run = RunDir(job.storage.root, str(job.run_id))
    removed = _pruned(job, run) if job.checkpoints.prune else []
    found = list_checkpoints(run, verify=job.checkpoints.verify)
    return {"checkpoints": [asdict(status) for status in found], "removed": removed}


def _pruned(job: JobSpec, run: RunDir) -> list[int]:
    """Remove what the training does not keep."""
    return prune(run, replace(Retention.of(job.trainer), needed=needed_by(newest_state(run))))


def main(arguments: Sequence[str] | None = None) -> int:
    """Take the inventory of the run that a job names; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m trainer.inventory", description="List a run's checkpoints.")
    parser.add_argument("--job", required=True, metavar="URL", help="a job.yaml with run_id and storage.root")
    asked = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder, _, name = asked.job.rpartition("/")
    try:
        found = take(load_job(open_store(folder or ".").get(name), asked.job))
    except BadSpec as error:
        send({"kind": "error", "error_kind": "bad_spec", "message": str(error)})
        return BAD_SPEC
    except StoreError as error:
        send({"kind": "error", "error_kind": "infrastructure", "message": str(error)})
        return FAILED
    send({"kind": "event", "event": "inventory", "details": found})
    log.info("%s", found)
    return DONE


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)

"""job=stop: ask a running job, or a sweep with all of its trials, to save and stop."""

import time

from launcher.compose import Asked
from launcher.console import show
from launcher.journal import STOP_REQUEST
from launcher.lease import is_alive, known, read_owner
from launcher.saved import existing_run
from launcher.sweep_status import sweep_at


def run(asked: Asked) -> int:
    """Leave the request where the job's driver looks for it, about once a second."""
    run_dir = sweep_at(asked.job.storage.root, asked.job.run_id) or existing_run(asked)[0]
    owner, now = read_owner(run_dir), time.time()
    if owner is None or known(owner) is False:
        show(f"run {run_dir.run_id} is not running: nothing to stop")
        return 0
    run_dir.write_json(STOP_REQUEST, {"time": now})
    who = f"run {run_dir.run_id} (process {owner.pid} on {owner.host})"
    heard = ""
    if not is_alive(owner, now):  # clocks of two hosts may differ: whoever lives reads it, who begins anew forgets it
        heard = f", which was not heard of for {now - owner.renewed:.0f} s by this host's clock,"
    show(f"asked {who}{heard} to save and stop; job=status tells how it goes")
    return 0

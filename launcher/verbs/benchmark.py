"""job=benchmark: the reader alone, the model alone and both, on the job's cluster; writes report/benchmark.json."""

from typing import Any

from conf import rules
from launcher import early
from launcher.compose import Asked
from launcher.console import Console, show
from launcher.drive import Drive
from launcher.farewell import failure_text
from launcher.gate import refuse_at_once
from launcher.interrupts import interrupts
from launcher.plan import plan
from launcher.saved import check_writable, discard, new_run_id, open_run
from storage.run_dir import BENCHMARK

PHASES = {"reader": "the reader alone", "model": "the model alone", "both": "both"}


def run(asked: Asked) -> int:
    """Measure, and say what limits the job. A run that exists keeps everything but its last report of this kind."""
    run_dir, job = open_run(asked, asked.job.run_id or new_run_id(asked.job))
    rules.check(job)
    early.check(job)
    if job.dry_run:
        show(plan(job, run_dir))
        return 0
    refuse_at_once(job.cluster)
    check_writable(run_dir, job)
    console = Console()
    with interrupts() as stopper:
        found = Drive(job, run_dir, console, stopper).run()
    console.rest()
    if found.state == "succeeded":
        console.say("\n".join([*lines(run_dir.read_json(BENCHMARK)), f"report  {run_dir.url}/{BENCHMARK}"]))
        return found.exit_code
    if found.state == "stopped":
        console.say("stopped before everything was measured; nothing is written")
        discard(run_dir)
    else:
        console.say(failure_text(run_dir, found))
    return found.exit_code


def lines(report: dict[str, Any]) -> list[str]:
    """The report for a person."""
    shape = f"{report['workers']} worker{'s' * (report['workers'] > 1)}, {report['replicas']} {report['device']}"
    replicas = f"{shape} replica{'s' * (report['replicas'] > 1)}, batch {report['global_batch_size']}"
    rows = [f"{report['model']} on {report['data']}, {report['image_size']} pixels, {report['precision']}, {replicas}"]
    rows.append(f"{'':<18}{'examples/s':>12}{'ms a step':>12}")
    for name, words in PHASES.items():
        phase = report["measured"][name]
        rows.append(f"{words:<18}{phase['examples_per_s']:>12,.0f}{1000 * phase['step_s']:>12.2f}")
    rows.append(f"{report['verdict']}: {report['reason']}")
    return [*rows, *(f"try {advice['try']} - {advice['why']}" for advice in report["advice"])]

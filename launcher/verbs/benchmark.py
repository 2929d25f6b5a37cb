"""job=benchmark: the reader alone, the model alone and both, on the job's cluster; writes report/benchmark.json."""

from typing import Any

from launcher.compose import Asked
from launcher.measurement import measure
from storage.run_dir import BENCHMARK

PHASES = {"reader": "the reader alone", "model": "the model alone", "both": "both"}


def run(asked: Asked) -> int:
    """Measure, and say what limits the job."""
    return measure(
        asked,
        lambda _, run_dir: [*lines(run_dir.read_json(BENCHMARK)), f"report  {run_dir.url}/{BENCHMARK}"],
        until="everything was measured",
    )


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

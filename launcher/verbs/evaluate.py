"""job=evaluate: measure the newest checkpoint of run_id; writes report/metrics.json."""

from launcher.compose import Asked
from launcher.farewell import metrics_lines
from launcher.task import run_task


def run(asked: Asked) -> int:
    """Measure, and say what was measured."""
    return run_task(asked, metrics_lines)

"""job=export: write the newest checkpoint of run_id as a SavedModel."""

from launcher.compose import Asked
from launcher.task import run_task
from storage.run_dir import SAVED_MODEL


def run(asked: Asked) -> int:
    """Export, and say where to."""
    return run_task(asked, lambda run_dir: [f"exported {run_dir.url}/{SAVED_MODEL}"])

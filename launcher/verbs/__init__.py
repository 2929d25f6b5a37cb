"""One file a verb, found by its name in `conf.schema.Verb`; each has `run(asked) -> int`, the exit code."""

import importlib

from conf.schema import Verb
from launcher.compose import Asked


def run(asked: Asked) -> int:
    """Do what the job's verb says."""
    verb: Verb = asked.job.job
    return int(importlib.import_module(f"launcher.verbs.{verb.name}").run(asked))

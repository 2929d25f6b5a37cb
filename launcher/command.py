"""Hydra's entry: `python launcher/run.py [job=VERB] [group=option] [key=value]`, installed as the command `convoy`.

Composes the job, checks it, and hands it to its verb. Errors that are the user's to mend become one message and 78.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # Python put launcher/ first, where a file could shadow a standard module
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from conf import rules
from conf.errors import BadSpec
from conf.exit_codes import BAD_SPEC, FAILED, INTERRUPTED
from launcher import flags, verbs
from launcher.compose import compose
from launcher.console import refuse
from launcher.gate import NoRay
from storage.store import StoreError


def main() -> None:
    """The process: its arguments in, its exit code out."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    sys.exit(run(sys.argv[1:]))


def run(words: Sequence[str]) -> int:
    """Do what the words ask for; the exit code."""
    try:
        if any(word.startswith("-") for word in words):
            return flags.answer(list(words))
        asked = compose(words)
        rules.check(asked.job)
        return verbs.run(asked)
    except BadSpec as error:
        refuse(error)
        return BAD_SPEC
    except (StoreError, NoRay) as error:
        refuse(error)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    main()

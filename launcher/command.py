"""The command itself: composes the job, checks it, and hands it to its verb.

Errors that are the user's to mend become one message and 78.
"""

import logging
from collections.abc import Sequence

from conf import rules
from conf.errors import BadSpec
from conf.exit_codes import BAD_SPEC, FAILED, INTERRUPTED
from launcher import flags, verbs
from launcher.compose import compose
from launcher.console import refuse
from launcher.gate import NoRay
from storage.store import StoreError, StoreFull


def run(words: Sequence[str]) -> int:
    """Do what the words ask for; the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        words = ["job=sweep" if word in flags.SWEEP else word for word in words]
        if any(word.startswith("-") for word in words):
            return flags.answer(list(words))
        asked = compose(words)
        rules.check(asked.job)
        return verbs.run(asked)
    except (BadSpec, StoreFull) as error:
        refuse(error)
        return BAD_SPEC
    except (StoreError, NoRay) as error:
        refuse(error)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED

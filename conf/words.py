"""Words that a user may have misspelt."""

import difflib
from collections.abc import Sequence


def closest(word: str, known: Sequence[str]) -> str | None:
    """The known word that was probably meant, however it is written in capitals; None where none is near."""
    spelt = {name.lower(): name for name in reversed(known)}
    close = difflib.get_close_matches(word.lower(), list(spelt), n=1, cutoff=0.5)
    return spelt[close[0]] if close else None


def nearest(word: str, known: Sequence[str]) -> str:
    """A cure for a misspelt word: the closest known one, then all of them."""
    close = closest(word, known)
    suggestion = f"did you mean {close}? " if close else ""
    return f"{suggestion}known: {', '.join(known)}"

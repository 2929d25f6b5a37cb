"""Words that a user may have misspelt."""

import difflib
from collections.abc import Sequence


def nearest(word: str, known: Sequence[str]) -> str:
    """A cure for a misspelt word: the closest known one, then all of them."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    suggestion = f"did you mean {close[0]}? " if close else ""
    return f"{suggestion}known: {', '.join(known)}"

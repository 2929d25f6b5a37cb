"""Errors that are the user's to mend.

Problem             one thing that is wrong: field=value - the law - the cure
BadSpec             some problems, reported together; exit code 78, never retried
"""

from collections.abc import Iterable
from typing import Any, NamedTuple


class Problem(NamedTuple):
    """One thing that is wrong with what was asked."""

    field: str
    value: Any
    law: str
    cure: str

    def __str__(self) -> str:
        shown = "null" if self.value is None else getattr(self.value, "name", self.value)
        return f"{self.field}={shown} - {self.law} - {self.cure}"


class BadSpec(Exception):
    """What was asked cannot be done. Carries every problem that was found."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems = list(problems)
        super().__init__(str(self))

    @classmethod
    def of(cls, field: str, value: Any, law: str, cure: str) -> "BadSpec":
        """The error for a single problem."""
        return cls([Problem(field, value, law, cure)])

    def __str__(self) -> str:
        count = len(self.problems)
        heading = f"the job has {count} problem{'s' if count != 1 else ''}"
        return "\n".join([heading, *(f"  {problem}" for problem in self.problems)])

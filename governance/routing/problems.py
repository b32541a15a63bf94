"""What is wrong with a policy's text: sentences about its lines."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """A sentence about a line, counted from 1."""

    line: int
    sentence: str

    def __str__(self) -> str:
        return f"Line {self.line}: {self.sentence}"


class PolicyInvalid(ValueError):
    """The text is no policy. `problems` has all that could be found, in the order of the lines."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = in_order(problems)
        super().__init__(" ".join(str(problem) for problem in self.problems))


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """By line, each once."""
    return tuple(sorted(dict.fromkeys(problems), key=lambda problem: problem.line))

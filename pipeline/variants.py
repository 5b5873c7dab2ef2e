"""One student to train, and what it is called."""

from dataclasses import dataclass

TEACHER = "teacher"  # what `mentee evaluate` and the report call the teacher with its head
UNTRAINED = "untrained"  # what `mentee examine` calls a student's network before any training
PLAIN = "plain"  # the settings that go without saying


@dataclass(frozen=True)
class Variant:
    """A mode, the settings besides it, and a seed."""

    mode: str
    settings: str
    seed: int

    @property
    def name(self) -> str:
        """The name of its files: obedient-plain-0."""
        return f"{self.mode}-{self.settings}-{self.seed}"

    @property
    def title(self) -> str:
        """What a reader of the report calls it, seeds aside: obedient + dropout."""
        return self.mode if self.settings == PLAIN else f"{self.mode} + {self.settings}"

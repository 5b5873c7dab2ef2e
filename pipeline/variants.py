"""One student to train, and what it is called; with fewer labels, or at another learning rate."""

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


@dataclass(frozen=True)
class Budget:
    """A student that may use so many labels a class."""

    variant: Variant
    labels: int

    @property
    def name(self) -> str:
        """The name of its file: obedient-plain-10-0."""
        variant = self.variant
        return f"{variant.mode}-{variant.settings}-{self.labels}-{variant.seed}"


@dataclass(frozen=True)
class Attempt:
    """One short training of the sweep of learning rates and depths."""

    mode: str
    learning_rate: float
    depth: int
    seed: int

    @property
    def name(self) -> str:
        """The name of its file: obedient-0.01-5-0."""
        return f"{self.mode}-{self.learning_rate}-{self.depth}-{self.seed}"

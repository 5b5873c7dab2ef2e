"""The table of results as text."""

from pipeline.reporting.table import text_table
from pipeline.results import Row
from pipeline.variants import TEACHER

SCORES = {
    "test": {"accuracy": 0.5, "nll": 1.25, "ece": 0.03}, "parameters": 279_466,
    "latency_ms": {"1": 1.0, "64": 200.0},
}  # fmt: skip


def test_the_text_of_many_seeds_and_of_a_long_name_keeps_every_number() -> None:
    title = "obedient + " + "a_long_name_of_settings_" * 3
    seeds = tuple(range(40))
    teacher = Row(TEACHER, TEACHER, (TEACHER,), (), (SCORES,))
    text = text_table([teacher, Row(title, "features", ("x",) * 40, seeds, (SCORES,) * 40)])
    (line,) = (line for line in text.splitlines() if title in line)
    for told in (", ".join(map(str, seeds)), "50.0 ± 0.0 %", "1.250 ± 0.000", "279,466", "200.0"):
        assert told in line

"""What an estimate says of a dump, with numbers on paper."""

from dataclasses import replace

from pipeline.stages.estimate import Estimate

COST = Estimate(
    teacher="timm:some", input_size=64, compute="cpu", views={"labelled": 60, "test": 40},
    row_bytes={"views": 20, "logits": 30}, teacher_seconds=0.5, write_rate=1000.0, online_views=30,
)  # fmt: skip


def test_the_slower_of_teacher_and_writer_decides_how_long_a_dump_takes() -> None:
    assert COST.bytes == 5000
    assert COST.seconds == 50
    assert replace(COST, write_rate=50.0).seconds == 100


def test_a_dump_pays_from_the_student_on_with_whom_the_teacher_would_have_run_longer() -> None:
    """The teacher in the loop takes 15 s a student: 45 s for three, 60 s for four."""
    assert COST.students == 4
    assert replace(COST, online_views=101).students == 1

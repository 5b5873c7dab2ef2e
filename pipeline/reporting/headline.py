"""What mentoring bought and what the portable network costs, in a few sentences."""

from collections.abc import Sequence

from pipeline.reporting.differences import Difference, compare
from pipeline.reporting.wording import counted, in_words, megabytes, percent, times
from pipeline.results import Row, best
from pipeline.variants import TEACHER, Variant

ACCURACY = ("test", "accuracy")
LONE = ("labels",)
MENTORED = ("logits", "features")
EXTENDED = ("unlabelled",)
SEVERAL = ("teachers",)
STUDENTS = (*LONE, *MENTORED, *EXTENDED, *SEVERAL)


def difference(row: Row, other: Row, *keys: str) -> Difference | None:
    """Row minus other over the seeds that both have; the teacher is the same for every seed."""
    ours, theirs = row.by_seed(*keys), other.by_seed(*keys)
    if row.group == TEACHER:
        ours = dict.fromkeys(theirs, row.values(*keys)[0])
    if other.group == TEACHER:
        theirs = dict.fromkeys(ours, other.values(*keys)[0])
    return compare(ours, theirs)


def headline(rows: Sequence[Row], unlabelled_images: int, absent: Sequence[Variant]) -> str:
    """What mentoring bought, with numbers; what is chosen was chosen by validation."""
    lone, mentored, extended, several = (
        best(rows, groups) for groups in (LONE, MENTORED, EXTENDED, SEVERAL)
    )
    kinds = (
        (lone, "Without a teacher"),
        (mentored, f"Taught on {'the same ' if lone else ''}labelled images"),
        (extended, f"With {unlabelled_images:,} unlabelled images"),
        (several, "With other teachers"),
    )
    sentences: list[str] = []
    by_one_seed = False
    for row, how in kinds:
        if not row:
            continue
        if not sentences:
            subject = f"the student ({row.title})"
            sentences.append(f"{how} {subject} reaches {_accuracy(row)} on the test set.")
            continue
        gain = difference(row, lone, *ACCURACY) if lone else None
        by_one_seed |= gain is not None and gain.seeds == 1
        ending = f": {in_words(gain)}" if gain else ""
        sentences.append(f"{how} ({row.title}) it reaches {_accuracy(row)}{ending}.")
    if not sentences:
        sentences.append("There is no student here yet.")
    whose = "Its" if lone or mentored or extended else "The"  # of others the page knows no scores
    sentences.append(f"{whose} teacher reaches {_accuracy(rows[0])}.")
    if by_one_seed:
        sentences.append(
            "One seed has no spread and shows no difference by itself: sweep.seeds may list more."
        )
    if absent:
        names = ", ".join(variant.name for variant in absent)
        sentences.append(f"Not in this folder, so left out: {names}.")
    return " ".join(sentences)


def numbers(rows: Sequence[Row]) -> dict[str, float]:
    """Test accuracies, few enough for a line of `dvc exp show`.

    The teacher's, and of students alone, mentored, with unlabelled images and with other teachers
    that of the kind which validation likes best.
    """
    kinds = {"alone": LONE, "mentored": MENTORED, "unlabelled": EXTENDED, "teachers": SEVERAL}
    found = {"teacher": rows[0], **{name: best(rows, groups) for name, groups in kinds.items()}}
    means = {name: row.mean(*ACCURACY) for name, row in found.items() if row}
    return {name: mean for name, mean in means.items() if mean is not None}


def portable(rows: Sequence[Row]) -> str:
    """How large and fast the student that validation likes best is, beside its teacher."""
    teacher, student = rows[0], best(rows, STUDENTS)
    if student is None:
        return ""
    gap = difference(student, teacher, *ACCURACY)
    faster = teacher.latency(1) / student.latency(1)
    measures = (
        ("parameters", "parameters", counted),
        ("multiply-adds an image", "multiply_adds", counted),
        ("bytes on disk", "bytes", megabytes),
    )
    sizes = [
        f"{times(theirs / ours, 'fewer', 'more')} {what} ({write(ours)} against {write(theirs)})"
        for what, key, write in measures
        if (ours := student.mean(key)) and (theirs := teacher.mean(key))
    ]
    return (
        f"The student that validation likes best ({student.title}) has {', '.join(sizes)}. It "
        f"answers one image in {student.latency(1):.2f} ms against {teacher.latency(1):.1f} ms, "
        f"{times(faster, 'faster', 'slower')}, and is right on {_accuracy(student)} of the test "
        f"images against {_accuracy(teacher)}{f': {in_words(gap)}' if gap else ''}."
    )


def _accuracy(row: Row) -> str:
    return percent(row.mean(*ACCURACY), row.spread(*ACCURACY))

"""The sentences: what is chosen, and what is said of a difference."""

from typing import Any

import pytest

from pipeline.reporting.headline import ACCURACY, difference, headline, numbers, portable
from pipeline.results import Row
from pipeline.variants import TEACHER, Variant


def row(
    title: str, group: str, test: tuple[float, ...], validation: float = 0.5, **sizes: Any
) -> Row:
    seeds = () if group == TEACHER else tuple(range(len(test)))
    scores = tuple(
        {
            "test": {"accuracy": accuracy}, "validation": {"accuracy": validation},
            "parameters": 1000, "latency_ms": {"1": 1.0, "64": 10.0}, **sizes,
        }
        for accuracy in test
    )  # fmt: skip
    return Row(title, group, tuple(f"{title}-{seed}" for seed in seeds), seeds, scores)


TAUGHT = row(TEACHER, TEACHER, (0.9,), parameters=20_000, latency_ms={"1": 30.0, "64": 99.0},
             bytes=8_000_000, multiply_adds=10_000_000)  # fmt: skip
LONE = row("alone", "labels", (0.50, 0.51, 0.49))


def test_a_gain_that_all_seeds_have_comes_with_its_interval() -> None:
    text = headline([TAUGHT, LONE, row("led", "features", (0.60, 0.612, 0.588))], 0, [])
    assert "the student (alone) reaches 50.0 ± 1.0 %" in text
    assert "(led) it reaches 60.0 ± 1.2 %: 10.0 points more (95 % interval over 3 seeds:" in text
    assert "no difference" not in text


def test_a_gain_that_the_seeds_do_not_show_is_said_to_be_none() -> None:
    text = headline([TAUGHT, LONE, row("led", "features", (0.53, 0.49, 0.51))], 0, [])
    assert "1.0 points more, which is no difference that 3 seeds can show." in text
    assert "interval" not in text


def test_equals_are_called_neither_more_nor_less() -> None:
    rows = [TAUGHT, row("alone", "labels", (0.5,)), row("led", "features", (0.5002,))]
    assert "it reaches 50.0 %: the same to 0.1 points" in headline(rows, 0, [])


def test_one_seed_is_said_to_show_no_difference() -> None:
    rows = [TAUGHT, row("alone", "labels", (0.5,)), row("led", "unlabelled", (0.7,))]
    text = headline(rows, 5000, [])
    assert "With 5,000 unlabelled images (led) it reaches 70.0 %: 20.0 points more" in text
    assert text.count("One seed has no spread and shows no difference by itself") == 1


def test_validation_chooses_and_not_the_test() -> None:
    liked = row("liked", "labels", (0.4, 0.4), validation=0.7)
    lucky = row("lucky", "labels", (0.9, 0.9), validation=0.6)
    text = headline([TAUGHT, lucky, liked], 0, [])
    assert "liked" in text
    assert "lucky" not in text


def test_the_portable_network_is_compared_with_its_teacher_in_every_measure_there_is() -> None:
    small = row("small", "features", (0.8, 0.81, 0.79), bytes=500_000, multiply_adds=2_500_000)
    text = portable([TAUGHT, small])
    assert "20 times fewer parameters (1,000 against 20,000)" in text
    assert "4.0 times fewer multiply-adds an image (2.50 million against 10.0 million)" in text
    assert "16 times fewer bytes on disk (0.50 MB against 8.00 MB)" in text
    assert "1.00 ms against 30.0 ms, 30 times faster" in text
    assert "80.0 ± 1.0 % of the test images against 90.0 %: 10.0 points less" in text


@pytest.mark.parametrize("group", ["labels", "logits", "features", "unlabelled", "teachers"])
def test_the_portable_network_may_be_a_student_of_any_kind(group: str) -> None:
    liked = row("liked", group, (0.6,), validation=0.9)
    text = portable([TAUGHT, LONE, row("led", "features", (0.7,)), liked])
    assert text.startswith("The student that validation likes best (liked) has")


def test_the_teacher_stands_beside_every_seed_and_students_beside_their_own() -> None:
    led = row("led", "features", (0.60, 0.61, 0.59))
    by_seed = difference(led, LONE, *ACCURACY)
    assert by_seed is not None
    assert by_seed.interval == pytest.approx((0.1, 0.1)), "each seed gains as much"
    for ours, theirs, gain in ((TAUGHT, LONE, 0.4), (LONE, TAUGHT, -0.4)):
        found = difference(ours, theirs, *ACCURACY)
        assert found is not None
        assert (found.seeds, found.mean) == (3, pytest.approx(gain))
        assert found.spread == pytest.approx(0.01)


def test_what_was_not_measured_is_not_spoken_of() -> None:
    text = portable([TAUGHT, row("old", "features", (0.8,))])
    assert "parameters" in text
    assert "multiply-adds" not in text
    assert "disk" not in text


def test_the_numbers_are_those_of_the_kinds_that_validation_likes_best() -> None:
    led, worse = row("led", "features", (0.6, 0.7), 0.8), row("soft", "logits", (0.9, 0.9), 0.4)
    found = numbers([TAUGHT, LONE, worse, led])
    assert found == {"teacher": 0.9, "alone": 0.5, "mentored": pytest.approx(0.65)}
    more = row("more", "unlabelled", (0.75, 0.75))
    assert numbers([TAUGHT, more]) == {"teacher": 0.9, "unlabelled": 0.75}


def test_a_student_larger_than_its_teacher_has_times_more_and_is_times_slower() -> None:
    wide = row("wide", "features", (0.8,), parameters=200_000, latency_ms={"1": 150.0, "64": 1.0},
               multiply_adds=1e9)  # fmt: skip
    text = portable([TAUGHT, wide])
    assert "has 10 times more parameters (0.20 million against 20,000), 100 times more" in text
    assert "150.00 ms against 30.0 ms, 5.0 times slower, and is right" in text
    assert "fewer" not in text
    assert "faster" not in text


def test_without_a_lone_student_the_first_sentence_says_who_is_spoken_of() -> None:
    led, more = row("led", "features", (0.12,)), row("more", "unlabelled", (0.13,))
    assert headline([TAUGHT, led, more], 5000, []) == (
        "Taught on labelled images the student (led) reaches 12.0 % on the test set. With 5,000 "
        "unlabelled images (more) it reaches 13.0 %. Its teacher reaches 90.0 %."
    )


def test_without_any_student_the_headline_says_so() -> None:
    assert headline([TAUGHT], 0, []) == "There is no student here yet. The teacher reaches 90.0 %."
    gone = Variant("obedient", "plain", 0)
    assert headline([TAUGHT], 0, [gone]).endswith("left out: obedient-plain-0.")


def test_students_of_several_teachers_have_a_sentence_and_a_number() -> None:
    both = row("led + both", "teachers", (0.70, 0.712, 0.688))
    text = headline([TAUGHT, LONE, both], 0, [])
    assert "With other teachers (led + both) it reaches 70.0 ± 1.2 %: 20.0 points more" in text
    assert numbers([TAUGHT, LONE, both]) == {
        "teacher": 0.9, "alone": 0.5, "teachers": pytest.approx(0.7),
    }  # fmt: skip


@pytest.mark.parametrize("group", ["labels", "logits", "unlabelled"])
def test_of_a_student_of_any_other_kind_it_is(group: str) -> None:
    text = headline([TAUGHT, row("one", group, (0.7,))], 0, [])
    assert text.endswith("Its teacher reaches 90.0 %.")


def test_of_a_student_of_other_teachers_alone_the_one_here_is_not_said_to_be_its() -> None:
    text = headline([TAUGHT, row("led + lite2", "teachers", (0.7,))], 0, [])
    assert text == (
        "With other teachers the student (led + lite2) reaches 70.0 % on the test set. The "
        "teacher reaches 90.0 %."
    )

"""What the report shows of a student: rows, maps and filters that are what they are said to be."""

import numpy as np
import torch

from pipeline.gallery import SHOWN, attention, disagreements, first_filters, to_grid
from pipeline.prepared import Split
from pipeline.students import Card, Student


def split_of(labels: list[int]) -> Split:
    images = np.zeros((len(labels), 8, 8, 3), dtype=np.uint8)
    ids = tuple(map(str, range(len(labels))))
    return Split("test", images, np.array(labels), ids, ("cat", "dog", "owl"))


def test_the_surest_disagreements_come_first_and_agreements_never() -> None:
    student = np.log([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.9, 0.05, 0.05], [0.3, 0.3, 0.4]])
    teacher = np.log([[0.1, 0.7, 0.2], [0.1, 0.8, 0.1], [0.05, 0.05, 0.9], [0.4, 0.3, 0.3]])
    shown = disagreements(split_of([1, 1, 0, 2]), student, teacher)
    assert [entry["row"] for entry in shown] == [2, 0, 3]
    assert shown[0] == {
        "row": 2, "label": "cat", "student": ["cat", 0.9], "teacher": ["owl", 0.9],
    }  # fmt: skip
    assert shown[1]["student"] == ["cat", 0.8] and shown[1]["teacher"] == ["dog", 0.7]


def test_no_more_disagreements_are_shown_than_fit() -> None:
    student, teacher = np.tile([[1.0, 0.0, 0.0]], (50, 1)), np.tile([[0.0, 1.0, 0.0]], (50, 1))
    assert len(disagreements(split_of([0] * 50), student, teacher)) == SHOWN


def test_attention_is_the_root_of_mean_squares_over_channels_and_at_most_1() -> None:
    maps = torch.tensor([[[[3.0, 0.0]], [[4.0, 5.0]]], [[[0.0, 0.0]], [[0.0, 0.0]]]])
    first, second = attention(maps)
    assert first == [[1.0, 1.0]]  # (9 + 16) / 2 and (0 + 25) / 2
    assert second == [[0.0, 0.0]]
    assert attention(torch.tensor([[[[1.0, 2.0], [4.0, -8.0]]]])) == [[[0.125, 0.25], [0.5, 1.0]]]


def test_the_first_filters_are_drawn_about_grey() -> None:
    card = Card("fiveconv", 4, 3, 0.0, 8, 8, ("cat", "dog"), (0.5,) * 3, (0.2,) * 3, {})
    student = Student(card)
    kernel = torch.zeros(2, 3, 3, 3)
    kernel[0, 2, 1, 0], kernel[0, 0, 0, 0] = 0.5, -0.25
    student.network.conv1[0].weight.data = kernel
    drawn = first_filters(student)
    assert drawn[0][1][0] == [128, 128, 255]
    assert drawn[0][0][0] == [64, 128, 128]
    assert drawn[1] == [[[128] * 3] * 3] * 3


def test_a_network_that_sees_no_picture_of_three_channels_has_no_filters_to_draw() -> None:
    """TResNet folds 4 x 4 pixels into channels first."""
    card = Card("timm:tresnet_m", 4, 3, 0.0, 32, 32, ("cat", "dog"), (0.5,) * 3, (0.2,) * 3, {})
    assert first_filters(Student(card)) == []


def test_maps_are_averaged_to_a_grid_and_rows_stay() -> None:
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    assert to_grid(maps, 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert to_grid(maps, 8).shape == (1, 1, 4, 4)
    assert to_grid(maps.flatten(1), 2).shape == (1, 16)

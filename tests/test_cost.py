"""What an answer costs, against numbers on paper."""

import torch
from torch import nn

from pipeline.cost import multiply_adds

CPU = torch.device("cpu")


def test_multiply_adds_are_those_of_convolutions_and_linear_layers() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Linear(4 * 8 * 8, 10),
    ).eval()  # fmt: skip
    by_hand = 8 * 8 * 4 * 3 * 3 * 3 + 4 * 8 * 8 * 10
    assert multiply_adds(lambda pictures: network(pictures.float()), 8, CPU) == by_hand


def test_grouped_convolutions_cost_what_they_do() -> None:
    network = nn.Conv2d(3, 6, 3, padding=1, groups=3, bias=False)
    assert multiply_adds(lambda pictures: network(pictures.float()), 8, CPU) == 8 * 8 * 6 * 9

"""The report's pictures of training."""

import re

from pipeline.blocks import Mode
from pipeline.pictures.style import Look
from pipeline.pictures.training import learning_curves, mode_weights, over_steps

LOOK = {"both": Look("#0072b2")}


def test_curves_of_seeds_that_stopped_early_are_drawn_as_far_as_all_go() -> None:
    long, short = [(10, 0.1), (20, 0.2), (30, 0.3)], [(10, 0.2), (20, 0.4)]
    picture = learning_curves({"both": [long, short]}, LOOK)
    assert picture == learning_curves({"both": [long[:2], short]}, LOOK)
    assert picture != learning_curves({"both": [long, long]}, LOOK)
    assert re.search(r">both<", picture)


def test_curves_of_seeds_that_were_looked_at_at_other_steps_are_of_the_steps_of_all() -> None:
    often, seldom = [(10, 0.1), (20, 0.2), (30, 0.3), (40, 0.4)], [(20, 0.4), (40, 0.8)]
    shared = [often[1], often[3]]
    picture = learning_curves({"both": [often, seldom]}, LOOK)
    assert picture == learning_curves({"both": [shared, seldom]}, LOOK)
    strange = [(15, 0.4), (35, 0.8)]
    assert over_steps({"both": [often, strange]}, LOOK, "norm", log=True) == over_steps(
        {"both": [often]}, LOOK, "norm", log=True
    ), "where none is of all, the first seed stands for the others"


def test_every_mode_has_axes_of_its_own_and_there_are_no_empty_ones() -> None:
    mode = Mode(alpha=[(0, 1.0)], beta=[(0, 0.0)], gamma=[(0, 0.0)])
    for count in (1, 2, 3, 5):
        picture = mode_weights({f"mode{number}": mode for number in range(count)})
        assert re.findall(r">(mode\d)<", picture) == [f"mode{number}" for number in range(count)]
        backgrounds = re.findall(r"fill: #ffffff", picture)
        assert len(backgrounds) == count + 1, "the figure's and one of each axes"

"""The report's pictures."""

import re

from pipeline.pictures import learning_curves


def test_curves_of_seeds_that_stopped_early_are_drawn_as_far_as_all_go() -> None:
    long, short = [(10, 0.1), (20, 0.2), (30, 0.3)], [(10, 0.2), (20, 0.4)]
    picture = learning_curves({"both": [long, short]})
    assert picture == learning_curves({"both": [long[:2], short]})
    assert picture != learning_curves({"both": [long, long]})
    assert re.search(r">both<", picture)

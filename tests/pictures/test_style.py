"""What holds for every picture."""

import re

from matplotlib.figure import Figure

from pipeline.pictures.scores import spread_out
from pipeline.pictures.style import looks, svg
from pipeline.results import Row
from pipeline.variants import TEACHER


def test_every_network_looks_otherwise_and_who_has_no_teacher_is_grey() -> None:
    groups = {TEACHER: TEACHER, **{f"lone{n}": "labels" for n in range(40)},
              **{f"led{n}": "features" for n in range(40)}}  # fmt: skip
    look = looks([Row(title, group, (), (), ()) for title, group in groups.items()])
    assert len(set(look.values())) == len(look)
    for title, group in groups.items():
        red, green, blue = re.findall("..", look[title].colour[1:])
        assert (red == green == blue) == (group in ("labels", TEACHER)), title


def test_pictures_in_one_page_share_no_id_and_lead_to_no_other_place() -> None:
    ids = []
    for end in (1, 2):
        figure = Figure()
        figure.subplots().plot([0, end], "o-")
        text = svg(figure)
        own = re.findall(r' id="([^"]+)"', text)
        assert own, "clip paths and markers have one"
        assert set(re.findall(r'(?:url\(|href=")#([\w-]+)', text)) == set(own)
        ids += own
    assert len(set(ids)) == len(ids)


def test_labels_stand_apart_in_their_order_and_near_their_points() -> None:
    assert spread_out([1.0, 5.0, 9.0], 2.0) == [1.0, 5.0, 9.0]
    assert spread_out([5.0, 5.0, 5.0], 2.0) == [3.0, 5.0, 7.0]
    # 4 and 5 need one unit more than they have; the block then touches nothing.
    assert spread_out([5.0, 4.0, 20.0], 2.0) == [5.5, 3.5, 20.0]


def test_labels_stand_between_the_ends_of_the_axis() -> None:
    assert spread_out([0.0, 0.0, 9.0], 2.0, 1.0, 9.0) == [1.0, 3.0, 9.0]
    assert spread_out([0.0, 10.0, 10.0], 2.0, 1.0, 9.0) == [1.0, 7.0, 9.0]

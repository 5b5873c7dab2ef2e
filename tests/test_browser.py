"""The page in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Page, a_page, needs_chromium
from findings import make_project

from pipeline.stages.report import report

pytestmark = needs_chromium

ACCURACIES = (
    "[...document.querySelectorAll('#results tbody tr')].map(row => row.cells[2].textContent)"
)
WIDTHS = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
OPEN_ALL = "document.querySelectorAll('details').forEach(one => { one.open = true })"
# Units of an SVG are as large as the page shows it.
TEXT_SIZES = """[...document.querySelectorAll("svg text")].map(text => {
  const svg = text.ownerSVGElement;
  const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
  return parseFloat(getComputedStyle(text).fontSize) * scale;
})"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    params = make_project(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        report(params)
    return folder / "reports/index.html"


@pytest.fixture
def page(made: Path, tmp_path: Path) -> Iterator[Page]:
    with a_page(tmp_path) as page:
        page.resize(1000)
        page.open(made)
        yield page


def test_the_page_is_drawn_without_an_error_and_asks_nobody(page: Page, made: Path) -> None:
    assert page.value("document.title").startswith("Mentee")
    assert page.value("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
    asked = [event["request"]["url"] for event in page.heard("Network.requestWillBeSent")]
    assert asked[0] == made.as_uri()
    assert all(url.startswith("data:") for url in asked[1:])
    assert page.heard("Runtime.exceptionThrown") == []
    assert page.heard("Log.entryAdded") == []


def test_a_click_sorts_by_number_and_another_turns_it(page: Page) -> None:
    def shares() -> list[float]:
        return [float(text.split()[0]) for text in page.value(ACCURACIES)]

    given = shares()
    assert given != sorted(given, reverse=True), "so that sorting does something"
    head = "th:nth-child(3)"
    page.click(f"{head} button")
    assert shares() == sorted(given, reverse=True)
    assert page.value(f"document.querySelector('{head}').ariaSort") == "descending"
    page.click(f"{head} button")
    assert shares() == sorted(given)
    assert page.value(f"document.querySelector('{head}').ariaSort") == "ascending"


def test_numbers_are_no_texts_and_what_is_missing_comes_last(page: Page) -> None:
    """Milliseconds from 30 to 1500, which as a text is less; the teacher agrees with nobody."""
    heads = page.value("[...document.querySelectorAll('th button')].map(one => one.textContent)")
    rows = "[...document.querySelectorAll('#results tbody tr')]"
    for head in ("64 images (ms)", "agrees with the teacher"):
        column = heads.index(head)
        for _ in range(2):
            page.click(f"th:nth-child({column + 1}) button")
            texts = page.value(f"{rows}.map(row => row.cells[{column}].textContent)")
            numbers = [float(text.split()[0]) for text in texts if text != "-"]
            assert numbers in (sorted(numbers), sorted(numbers, reverse=True))
            assert "-" not in texts[:-1]


def test_the_keyboard_sorts_too(page: Page) -> None:
    page.value("document.querySelector('th:nth-child(1) button').focus()")
    page.press("Enter")
    names = page.value(
        "[...document.querySelectorAll('#results tbody tr')].map(row => row.cells[0].textContent)"
    )
    assert names == sorted(names)
    assert page.value("document.querySelector('th').ariaSort") == "ascending"


@pytest.mark.parametrize("width", [360, 1000, 1400])
def test_nothing_scrolls_sideways_but_the_table_in_its_box(page: Page, width: int) -> None:
    page.resize(width)
    page.value(OPEN_ALL)
    scrolled, seen = page.value(WIDTHS)
    assert scrolled == seen
    assert width - 20 < seen <= width, "a scroll bar may stand beside it"
    box = page.value("(box => [box.scrollWidth, box.clientWidth])"
                     "(document.querySelector('.scroll'))")  # fmt: skip
    assert box[0] > box[1]


def test_text_in_pictures_can_be_read_on_a_phone(page: Page) -> None:
    page.resize(360)
    page.value(OPEN_ALL)
    assert min(page.value(TEXT_SIZES)) >= 10


def test_a_class_of_a_long_name_does_not_widen_a_phone(made: Path, tmp_path: Path) -> None:
    long = made.with_name("long.html")
    long.write_text(made.read_text().replace("<bdi>0</bdi>", f"<bdi>{'L' * 200}</bdi>"))
    with a_page(tmp_path) as page:
        page.resize(360)
        page.open(long)
        scrolled, seen = page.value(WIDTHS)
    assert scrolled == seen


def test_on_paper_the_table_has_all_its_columns(page: Page) -> None:
    page.resize(718)  # A4 within the browser's margins
    page.command("Emulation.setEmulatedMedia", media="print")
    ends = page.value(
        "['#results', 'body'].map(one => document.querySelector(one).getBoundingClientRect().right)"
    )
    assert ends[0] <= ends[1]

"""Results as rows of a table, kept as JSON and printed into a page between two markers."""

import json
import platform
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.files import write_json, write_text

HEADER = "| what | ratio | spread | target | | measured |\n| --- | ---: | ---: | ---: | --- | --- |"


@dataclass(frozen=True)
class Row:
    """One ratio: the median over rounds, and the smallest and the largest of a round.

    target: at least so much, or at most where `at_most`; None: shown, but promised by nobody.
    measured: absolute times or sizes, for those who ask.
    """

    what: str
    ratio: float
    low: float
    high: float
    measured: str
    target: float | None = None
    at_most: bool = False

    @property
    def passes(self) -> bool | None:
        if self.target is None:
            return None
        return self.ratio <= self.target if self.at_most else self.ratio >= self.target

    def line(self) -> str:
        sign = "≤" if self.at_most else "≥"
        target = "" if self.target is None else f"{sign} {number(self.target)}"
        verdict = {None: "", True: "yes", False: "**no**"}[self.passes]
        spread = f"{number(self.low)} to {number(self.high)}"
        return (
            f"| {self.what} | {number(self.ratio)} | {spread} | {target} | {verdict} | "
            f"{self.measured} |"
        )


def number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 10 else f"{value:,.0f}"


def row(what: str, ratios: list[float], measured: str, **target: Any) -> Row:
    return Row(what, statistics.median(ratios), min(ratios), max(ratios), measured, **target)


def ratios(one: list[float], other: list[float]) -> list[float]:
    """`one` against `other`, round by round, so that noise that lasts hits both."""
    return [a / b for a, b in zip(one, other, strict=True)]


def machine() -> str:
    """The machine and the libraries in words; no name of a host."""
    import h5py  # here, because the process whose memory is measured needs neither
    import torch

    info = Path("/proc/cpuinfo").read_text().splitlines()
    kind = next((line.split(":")[1].strip() for line in info if "model name" in line), "CPU")
    cores = sum(line.startswith("processor") for line in info)
    memory = Path("/proc/meminfo").read_text().split()[1]
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{kind}, {cores} cores, {int(memory) / 2**20:.0f} GiB of memory{gpu}; Python "
        f"{platform.python_version()}, torch {torch.__version__}, h5py {h5py.__version__}"
    )


Results = dict[str, dict[str, Any]]  # by measurement: its rows, and the machine that made them


def load(path: Path) -> Results:
    return json.loads(path.read_text()) if path.is_file() else {}


def save(path: Path, results: Results, name: str, rows: list[Row]) -> None:
    """Put a measurement's rows into the results and write them."""
    results[name] = {"machine": machine(), "rows": [asdict(row) for row in rows]}
    write_json(path, results)


def table_of(results: Results, names: list[str]) -> str:
    """Machines and rows as Markdown, in the order of `names`."""
    made = [results[name] for name in names if name in results]
    machines = dict.fromkeys(content["machine"] for content in made)
    lines = [Row(**row).line() for content in made for row in content["rows"]]
    return "\n".join([*(f"Measured on: {name}." for name in machines), "", HEADER, *lines])


def replace_between(page: str, content: str, name: str) -> str:
    """The page with `content` between the markers of that name, whatever stood there."""
    first, last = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, begin, rest = page.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"the page lacks {first} or {last}")
    return f"{before}{begin}\n{content}\n{end}{after}"


def update_page(path: Path, content: str, name: str) -> None:
    write_text(path, replace_between(path.read_text(encoding="utf-8"), content, name))

"""All pictures of the report; one for which this folder has no evidence is left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.params import Params
from pipeline.pictures.beyond import cka_map, corrupted, transferred, with_labels
from pipeline.pictures.scores import accuracy_bars, cost, reliability_diagram
from pipeline.pictures.stability import gradient_norms, shares_map
from pipeline.pictures.style import looks
from pipeline.pictures.training import Curve, learning_curves, mode_weights, over_steps
from pipeline.reporting import series
from pipeline.reporting.evidence import untrained
from pipeline.reporting.headline import LONE
from pipeline.results import Row, best

LONE_DRAWN = 3  # students without a teacher in a picture of lines: more would hide each other


@dataclass(frozen=True)
class Album:
    """SVG text, and how many images were corrupted; an empty text or tuple: nothing to draw."""

    bars: str
    cost: str
    curves: str
    gradients: str
    weights: str
    modes: str
    reliability: tuple[str, ...]
    corrupted: str
    corrupted_images: tuple[int, ...]
    transferred: tuple[str, ...]
    retrained: tuple[str, ...]
    cka: tuple[str, ...]
    efficiency: str
    shares: str
    stability_norms: str


def draw(
    params: Params, rows: Sequence[Row], curves: dict[str, list[Curve]],
    attempts: Sequence[dict[str, Any]],
) -> Album:  # fmt: skip
    chosen = few(rows)
    examined = [*chosen, untrained(params)]
    look = looks([*rows, untrained(params)])
    norms = {what: series.norms(chosen, what) for what in ("gradient", "weights")}
    curves = {row.title: curves[row.title] for row in chosen if row.title in curves}
    shares = series.shares_that_train(attempts, params.stability.trains_at)
    corruptions = series.corruptions(examined)
    by_labels = series.efficiency(params, chosen)
    ece = {row.title: row.mean("test", "ece") for row in rows}
    used = {variant.mode for variant in params.variants()}
    return Album(
        bars=accuracy_bars(rows, look),
        cost=cost(chosen, look) if len(rows) > 1 else "",
        curves=learning_curves(curves, look) if curves else "",
        gradients=over_steps(norms["gradient"], look, "norm of the gradient", log=True)
        if norms["gradient"] else "",
        weights=over_steps(norms["weights"], look, "norm of the weights")
        if norms["weights"] else "",
        modes=mode_weights({name: params.modes[name] for name in params.modes if name in used})
        if used else "",
        reliability=tuple(
            reliability_diagram(title, bins, ece[title], look[title].colour)
            for title, bins in series.reliability(rows).items()
        ),
        corrupted=corrupted(corruptions, look) if corruptions else "",
        corrupted_images=tuple(series.corrupted_images(examined)),
        transferred=tuple(
            transferred(f"{target}, {budget} labels a class", networks, look)
            for (target, budget), networks in series.transfer(examined).items()
        ),
        retrained=tuple(
            transferred(f"{target}, the rest trained again", networks, look)
            for target, networks in series.retrained(examined).items()
        ),
        cka=tuple(cka_map(title, *found) for title, found in series.likeness(chosen).items()),
        efficiency=with_labels(by_labels, look) if by_labels else "",
        shares=shares_map(shares) if shares else "",
        stability_norms=gradient_norms(attempts, shares)
        if any(attempt["curve"] for attempt in attempts) else "",
    )  # fmt: skip


def few(rows: Sequence[Row]) -> list[Row]:
    """Of many students without a teacher the first and the one that validation likes best."""
    lone = [row for row in rows if row.group in LONE]
    kept = lone if len(lone) <= LONE_DRAWN else [lone[0], best(rows, LONE)]
    return [row for row in rows if row not in lone or row in kept]

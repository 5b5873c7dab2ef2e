"""Numbers as the report writes them, always with their units."""

from pipeline.reporting.differences import Difference

NONE = "-"


def percent(mean: float | None, spread: float | None = None) -> str:
    """61.2 % or, over seeds, 61.2 ± 0.4 %."""
    return NONE if mean is None else f"{with_spread(100 * mean, spread and 100 * spread, 1)} %"


def with_spread(mean: float | None, spread: float | None, digits: int) -> str:
    if mean is None:
        return NONE
    return f"{mean:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread is not None else "")


def counted(count: float) -> str:
    return f"{count:,.0f}" if count < 1e5 else f"{_three(count / 1e6)} million"


def megabytes(count: float) -> str:
    return f"{_three(count / 1e6)} MB"


def times(ratio: float, above: str, below: str) -> str:
    """How many times, in two digits: 17 times fewer, or of a ratio below 1: 2.3 times more."""
    many, what = (ratio, above) if ratio >= 1 else (1 / ratio, below)
    return f"{many:.0f} times {what}" if many >= 10 else f"{many:.1f} times {what}"


def points(difference: Difference) -> str:
    """A difference of shares in percentage points, with its interval where it is one."""
    text = f"{100 * difference.mean:+.1f}"
    if difference.is_shown and difference.interval:
        low, high = (100 * end for end in difference.interval)
        return f"{text} ({low:+.1f} to {high:+.1f})"
    if difference.seeds == 1:
        return f"{text} (one seed)"
    return f"{text} (none that {difference.seeds} seeds show)"


def in_words(difference: Difference) -> str:
    """For a sentence: 9.6 points more, 95 % interval 8.1 to 11.1; or what keeps it from that."""
    size = 100 * difference.mean
    text = f"{abs(size):.1f} points {'more' if size >= 0 else 'less'}"
    if round(size, 1) == 0:
        text = "the same to 0.1 points"
    if difference.is_shown and difference.interval:
        low, high = sorted(abs(100 * end) for end in difference.interval)
        return f"{text} (95 % interval over {difference.seeds} seeds: {low:.1f} to {high:.1f})"
    if difference.seeds == 1:
        return f"{text}, by one seed"
    return f"{text}, which is {difference.judgement}"


def _three(number: float) -> str:
    digits = 0 if number >= 100 else 1 if number >= 10 else 2
    return f"{number:.{digits}f}"

"""Options and arguments that several commands share, and what completes them in a shell."""

import json
from collections.abc import Callable, Iterable
from typing import Any

import click

from pipeline.errors import MenteeError, printable
from pipeline.progress import telling

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def names_of(block: str, *others: str) -> Callable[..., list[str]]:
    """Completes a word to a name in a block of the params.yaml that is here, or one of others."""

    def complete(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
        from pipeline.params import load_params

        try:
            names = [*getattr(load_params(), block), *others]
        except MenteeError:  # a shell that completes has no place for it
            return []
        return [name for name in names if name.startswith(typed)]

    return complete


def mode(*others: str) -> Decorator:
    """The argument MODE: one of the modes in params.yaml, or one of `others`."""
    return click.argument("mode", shell_complete=names_of("modes", *others))


SETTINGS = click.option(
    "--settings", default="plain", show_default=True, help="A block under settings.",
    shell_complete=names_of("settings"),
)  # fmt: skip
SEED = click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1))


def hush(context: click.Context, parameter: click.Parameter, as_json: bool) -> bool:
    """JSON is all that is printed: no line or bar of progress beside it."""
    if as_json:
        context.with_resource(telling(story=False))
    return as_json


JSON = click.option(
    "--json", "as_json", is_flag=True, callback=hush, help="Print one JSON document instead."
)


def show(content: Any, lines: Iterable[str], as_json: bool) -> None:
    """Print what a command found: as JSON, or in lines for people."""
    if as_json:
        click.echo(json.dumps(content, indent=2))
    else:
        for line in lines:
            click.echo(printable(line))

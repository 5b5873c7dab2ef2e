"""`mentee cache ...`: looking after caches, one's own and those of others."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from pipeline.errors import MenteeError, printable

CACHES = click.argument(
    "path", type=click.Path(path_type=Path), default="data/cache", metavar="[PATH]"
)
OUT = click.argument("out", type=click.Path(path_type=Path))


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder that appears as `out` when all of it is written; what is there stays there."""
    from pipeline.files import replaced_whole

    if out.exists():
        raise MenteeError(f"{out} is there already: name a new folder")
    with replaced_whole(out) as fresh:
        yield fresh


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@click.group()
def cache() -> None:
    """Look into, check, shrink, join and convert caches.

    PATH is a whole cache like data/cache, one split of it like data/cache/labelled, or one kind
    like data/cache/labelled/logits.
    """


@cache.command()
@CACHES
@click.option("--json", "as_json", is_flag=True, help="The card as JSON.")
def inspect(path: Path, as_json: bool) -> None:
    """Show the card of a cache: teacher, data, views, kinds, bytes, who may read it.

    Example: mentee cache inspect data/cache/labelled
    """
    from pipeline.cache.card import card, card_lines

    content = card(path)
    lines = [json.dumps(content, indent=2)] if as_json else map(printable, card_lines(content))
    click.echo("\n".join(lines))


@cache.command()
@CACHES
@click.option("--views", is_flag=True, help="Also replay every view and compare its pixels.")
def verify(path: Path, views: bool) -> None:
    """Compare every byte with its digest, and every shard with its place.

    Prints a line for each thing that is wrong, with the file and the data set, and exits with 1
    if there is any.

    Example: mentee cache verify --views
    """
    from pipeline.cache.kinds import find_kinds
    from pipeline.cache.verify import verify_kind

    kinds = find_kinds(path)
    wrong: set[str] = set()  # several kinds may find the same thing beside them
    size = sum(entry.bytes for _, manifest in kinds.values() for entry in manifest.entries)
    for folder, manifest in kinds.values():
        for finding in verify_kind(folder, manifest):
            if finding not in wrong:
                click.echo(printable(finding))
            wrong.add(finding)
    if views and not wrong:
        from pipeline.stages.replay import replay_all

        for finding in replay_all(kinds):
            click.echo(finding)
            wrong.add(finding)
    if wrong:
        things = f"{len(wrong)} thing{'s' * (len(wrong) > 1)}"
        raise MenteeError(f"{things} wrong under {path}, listed above: pull or dump them again")
    shards = sum(len(manifest.entries) for _, manifest in kinds.values())
    click.echo(f"{path}: {shards} shards in {len(kinds)} kinds, {size / 1e6:,.1f} MB, all whole")


@cache.command()
@click.argument("one", type=click.Path(path_type=Path))
@click.argument("other", type=click.Path(path_type=Path))
def diff(one: Path, other: Path) -> None:
    """Say what of two caches' specs differs, kind by kind; nothing if they fit together.

    Example: mentee cache diff data/cache ../theirs/data/cache
    """
    from pipeline.cache.kinds import differences, find_kinds, short

    left, right = find_kinds(one), find_kinds(other)
    for path in sorted(left.keys() | right.keys()):
        if path not in left or path not in right:
            click.echo(f"{path}: only in {one if path in left else other}")
            continue
        first, second = left[path][1], right[path][1]
        for key, (mine, theirs) in differences(first.spec, second.spec).items():
            click.echo(printable(f"{path}: {key}: {short(mine)} | {short(theirs)}"))
        if first.views != second.views:
            click.echo(f"{path}: views: {first.views} | {second.views}")


@cache.command()
@OUT
@click.argument(
    "sources", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="SOURCE SOURCE..."
)
@click.option("--average", is_flag=True, help="Average the logits of several teachers instead.")
def merge(out: Path, sources: tuple[Path, ...], average: bool) -> None:
    """Make one cache of several of the same images and views.

    Without --average the sources must be of one dump, and their kinds are put side by side.

    Example: mentee cache merge both data/cache theirs/data/cache
    """
    from pipeline.cache import merge as merging

    with new_folder(out) as fresh:
        (merging.average if average else merging.join)(list(sources), fresh)
    click.echo(f"{out}: {'averaged' if average else 'joined'} from {len(sources)} caches")


@cache.command()
@click.argument("path", type=click.Path(path_type=Path))
@OUT
def pack(path: Path, out: Path) -> None:
    """Compress a cache for keeping or sending: lossless, gzip chunks in plain HDF5.

    Example: mentee cache pack data/cache archive
    """
    from pipeline.cache.archive import pack_kind
    from pipeline.cache.beside import take_along
    from pipeline.cache.kinds import find_kinds

    kinds = find_kinds(path)
    with new_folder(out) as fresh:
        for name, (folder, manifest) in kinds.items():
            pack_kind(folder, manifest, fresh / name)
        take_along(path, fresh)
    before, after = size_of(path), size_of(out)
    click.echo(f"{out}: {after / 1e6:,.1f} MB, {after / max(before, 1):.0%} of {path}")


@cache.command()
@click.argument("path", type=click.Path(path_type=Path))
@OUT
def unpack(path: Path, out: Path) -> None:
    """Give a packed cache its fast layout back, checked against its digests.

    Example: mentee cache unpack archive data/cache
    """
    from pipeline.cache.archive import find_archives, unpack_kind
    from pipeline.cache.beside import take_along

    archives = find_archives(path)
    with new_folder(out) as fresh:
        for name, folder in archives.items():
            unpack_kind(folder, fresh / name)
        take_along(path, fresh)
    click.echo(f"{out}: {len(archives)} kinds, {size_of(out) / 1e6:,.1f} MB")


@cache.command()
@click.argument("path", type=click.Path(path_type=Path))
@OUT
@click.option("--as", "form", type=click.Choice(["numpy", "torch"]), default="numpy",
              show_default=True)  # fmt: skip
def export(path: Path, out: Path, form: str) -> None:
    """Write answers as one NumPy or torch file a kind, shaped (views, rows, ...).

    spec.json and index.h5 (sample ids and labels of the rows) come along.

    Example: mentee cache export data/cache/labelled/logits exported
    """
    from pipeline.cache.beside import take_along
    from pipeline.cache.export import export as write_files

    with new_folder(out) as fresh:
        write_files(path, fresh, form)
        take_along(path, fresh)
    click.echo(f"{out}: {', '.join(sorted(p.name for p in out.rglob('*') if p.is_file()))}")


@cache.command()
def estimate() -> None:
    """Say what a dump with these params will cost in bytes and hours, and when it pays.

    Measures the teacher on real views and the disk. Needs `mentee prepare` first.

    Example: mentee cache estimate
    """
    from pipeline.params import load_params

    params = load_params()
    from pipeline.stages.estimate import estimate

    for line in estimate(params):
        click.echo(line)


@cache.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
def gc(dry_run: bool) -> None:
    """Remove kept shards that no published cache and no params ask for.

    Dumps keep finished shards in .work/cache, so that params that are turned back find them. What
    DVC keeps is DVC's: see `dvc gc`.

    Example: mentee cache gc --dry-run
    """
    from pipeline.params import load_params

    params = load_params()
    from pipeline.stages.tidy import tidy

    for line in tidy(params, dry_run):
        click.echo(line)

"""`mentee cache ...`: looking after caches, one's own and those of others."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from pipeline.errors import MenteeError, printable
from pipeline.options import JSON, show

CACHES = click.argument(
    "path", type=click.Path(path_type=Path), default="data/cache", metavar="[PATH]"
)
OUT = click.argument("out", type=click.Path(path_type=Path))


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder that appears as `out` when all of it is written; what is there stays there."""
    from pipeline.files import replaced_whole

    if os.path.lexists(out):  # a link that leads nowhere too
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
@JSON
def inspect(path: Path, as_json: bool) -> None:
    """Show the card of a cache: teacher, data, views, kinds, bytes, who may read it.

    Example: mentee cache inspect data/cache/labelled
    """
    from pipeline.cache.card import card, card_lines

    content = card(path)
    show(content, card_lines(content), as_json)


@cache.command()
@CACHES
@click.option("--views", is_flag=True, help="Also replay every view and compare its pixels.")
@JSON
def verify(path: Path, views: bool, as_json: bool) -> None:
    """Compare every byte with its digest, and every shard with its place.

    Prints a line for each thing that is wrong, with the file and the data set, and exits with 1
    if there is any.

    Example: mentee cache verify --views
    """
    from pipeline.cache.kinds import find_kinds
    from pipeline.cache.verify import verify_kind

    kinds = find_kinds(path)
    wrong: list[str] = []

    def note(findings: Iterable[str]) -> None:
        for finding in findings:
            if finding in wrong:  # several kinds may find the same thing beside them
                continue
            wrong.append(finding)
            if not as_json:
                click.echo(printable(finding))

    for folder, manifest in kinds.values():
        note(verify_kind(folder, manifest))
    if views and not wrong:
        from pipeline.stages.replay import replay_all

        note(replay_all(kinds))
    entries = [entry for _, manifest in kinds.values() for entry in manifest.entries]
    shards, size = len(entries), sum(entry.bytes for entry in entries)
    if as_json:
        content = {"kinds": len(kinds), "shards": shards, "bytes": size, "wrong": wrong}
        click.echo(json.dumps(content, indent=2))
    if wrong:
        things = f"{len(wrong)} thing{'s' * (len(wrong) > 1)}"
        raise MenteeError(f"{things} wrong under {path}, listed above: pull or dump them again")
    if not as_json:
        click.echo(
            f"{path}: {shards} shards in {len(kinds)} kinds, {size / 1e6:,.1f} MB, all whole"
        )


@cache.command()
@click.argument("one", type=click.Path(path_type=Path))
@click.argument("other", type=click.Path(path_type=Path))
@JSON
def diff(one: Path, other: Path, as_json: bool) -> None:
    """Say what of two caches' specs differs, kind by kind; nothing if they fit together.

    Example: mentee cache diff data/cache ../theirs/data/cache
    """
    from pipeline.cache.kinds import compare, compared_lines, find_kinds

    content = compare(find_kinds(one), find_kinds(other))
    show(content, compared_lines(content, one, other), as_json)


@cache.command()
@OUT
@click.argument(
    "sources", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="SOURCE SOURCE..."
)
@click.option("--average", is_flag=True, help="Average the logits of several teachers instead.")
def merge(out: Path, sources: tuple[Path, ...], average: bool) -> None:
    """Make one cache of several of the same images and views.

    Without --average the sources must be of one dump, and their kinds are put side by side. With
    it, what has no mean is left out: features, and a teacher's own logits over classes of its own
    where there are task_logits.

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
        take_along(path, fresh, kinds)
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
        take_along(path, fresh, archives)
    click.echo(f"{out}: {len(archives)} kinds, {size_of(out) / 1e6:,.1f} MB")


@cache.command()
@click.argument("path", type=click.Path(path_type=Path))
@OUT
@click.option("--as", "form", type=click.Choice(["numpy", "torch"]), default="numpy",
              show_default=True)  # fmt: skip
def export(path: Path, out: Path, form: str) -> None:
    """Write answers as one NumPy or torch file a kind, shaped (views, rows, ...).

    Of a whole cache or split, spec.json and index.h5 (sample ids and labels of the rows) come
    along.

    Example: mentee cache export data/cache/labelled exported
    """
    from pipeline.cache.beside import take_along
    from pipeline.cache.export import export as write_files
    from pipeline.cache.kinds import find_kinds

    kinds = find_kinds(path)
    if not any(manifest.entries for _, manifest in kinds.values()):
        raise MenteeError(f"{path} holds no answers: its splits are empty")
    with new_folder(out) as fresh:
        write_files(kinds, fresh, form)
        take_along(path, fresh, kinds)
    click.echo(f"{out}: {', '.join(sorted(p.name for p in out.rglob('*') if p.is_file()))}")


@cache.command()
@JSON
def estimate(as_json: bool) -> None:
    """Say what a dump with these params will cost in bytes and hours, and when it pays.

    Measures the teacher on real views and the disk. Needs `mentee prepare` first.

    Example: mentee cache estimate
    """
    from pipeline.params import load_params

    params = load_params()
    from pipeline.stages.estimate import estimate, estimate_lines

    cost = estimate(params)
    show(cost.content(), estimate_lines(cost), as_json)


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

"""Two caches of the same images and views as one: taps joined, or teachers averaged."""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache.beside import read_spec, take_index
from pipeline.cache.encodings import encoding_of
from pipeline.cache.kinds import Found, differences, dump_of, find_kinds, short, split_folder
from pipeline.cache.reader import Kind, layout_of
from pipeline.cache.schema import (
    INDEX,
    LOGITS,
    PIXELS,
    REGIONS,
    SPEC,
    TASK_LOGITS,
    VIEWS,
    Manifest,
)
from pipeline.cache.shard import write_shard
from pipeline.cache.writer import link_or_copy, write_manifest
from pipeline.errors import MenteeError
from pipeline.files import write_json


def join(sources: list[Path], target: Path) -> None:
    """Every kind of every source into `target`; all must be of one dump."""
    kinds: dict[str, tuple[Path, Kind]] = {}
    for source, found in zip(sources, _same_parts(sources), strict=True):
        for path, (folder, manifest) in found.items():
            kind = _opened(folder, manifest)
            if path not in kinds:
                kinds[path] = (source, kind)
                continue
            first = kinds[path][1]
            _refuse_difference(first, kind, first.spec, kind.spec)
            if kind.views > first.views:
                kinds[path] = (source, kind)
    by_split: dict[str, Kind] = {}
    # Views first: all others must have as many.
    for _, kind in sorted(kinds.values(), key=lambda found: found[1].manifest.kind != VIEWS):
        first = by_split.setdefault(kind.spec["split"], kind)
        _refuse_other_dump(first, kind)
        _refuse_partial(kind, first)
    for path, (_, kind) in kinds.items():
        for place in kind.places:
            link_or_copy(place.path(kind.folder), place.path(target / path))
        write_manifest(target / path, kind.manifest.kind, kind.spec, kind.places)
    made = [(path, kind) for path, (_, kind) in kinds.items()]
    _write_beside(made, {path: kind.folder for path, kind in made}, target)


def average(sources: list[Path], target: Path) -> None:
    """The mean of the teachers' logits, with the views of the first source.

    The mean of logits is the geometric mean of the teachers' distributions (Hinton, Vinyals and
    Dean, "Distilling the knowledge in a neural network", 2015), which needs every logit. Features
    of different teachers have no mean and are left out, and so are their own logits, if these have
    none and the task's are there, which students read.
    """
    found = _same_parts(sources)
    shared = set.intersection(*(set(kinds) for kinds in found))
    wanted = sorted(path for path in shared if found[0][path][1].kind in (LOGITS, TASK_LOGITS))
    if not any(found[0][path][1].entries for path in wanted):
        raise MenteeError(f"{', '.join(map(str, sources))} have no logits in common to average")
    made = []
    for path in wanted:
        if not _have_mean(path, found) and _task_logits_beside(path) in set(wanted) - {path}:
            continue
        members = [_opened(*kinds[path]) for kinds in found]
        views_path = (Path(path).parent / VIEWS).as_posix()
        if views_path not in shared:
            raise MenteeError(
                f"{members[0].folder} has no {VIEWS} beside it in every source: name whole caches, "
                f"or a split of each"
            )
        views = [_opened(*kinds[views_path]) for kinds in found]
        for shown, said in zip(views, members, strict=True):
            _refuse_other_dump(shown, said)
            _refuse_partial(said, shown)
        made.append((path, _average_kind(members, target / path)))
        if not (target / views_path).exists():
            made.append((views_path, _common_views(views, members, target / views_path)))
    _write_beside(made, {path: found[0][path][0] for path, _ in made}, target)


class _Empty(Kind):
    """A kind of an empty split, which `Kind` refuses: nobody can read it, but it can be merged."""

    def __init__(self, folder: Path, manifest: Manifest):
        self.folder, self.manifest, self.spec = folder, manifest, manifest.spec
        self.places, self.views = [], 0
        layout_of(manifest)  # refuses an encoding that is not known


def _opened(folder: Path, manifest: Manifest) -> Kind:
    return Kind(folder) if manifest.entries else _Empty(folder, manifest)


def _same_parts(sources: list[Path]) -> list[Found]:
    """The kinds of every source; a split put beside a whole cache would make no cache."""
    found = [find_kinds(source) for source in sources]
    for source, kinds in zip(sources, found, strict=True):
        if not _parts(found[0]) & _parts(kinds):
            raise MenteeError(
                f"{source} is another part of a cache than {sources[0]}: name whole caches, or the "
                f"same split or kind of each"
            )
    return found


def _parts(kinds: Found) -> set[tuple[int, str]]:
    """How many folders below that of a whole cache a source begins; of a kind alone, which."""
    return {
        (2 + manifest.kind.count("/") - len(Path(path).parts), "" if path != "." else manifest.kind)
        for path, (_, manifest) in kinds.items()
    }


def _have_mean(path: str, found: list[Found]) -> bool:
    """Whether all teachers' logits are kept, and over as many classes."""
    described = [kinds[path][1].spec["kinds"][kinds[path][1].kind] for kinds in found]
    return len({tuple(kind["shape"]) for kind in described}) == 1 and not any(
        _are_largest_alone(kind) for kind in described
    )


def _are_largest_alone(described: dict[str, Any]) -> bool:
    return described["encoding"].startswith("top")


def _task_logits_beside(path: str) -> str:
    return (Path(path).parent / TASK_LOGITS).as_posix()


def _average_kind(members: list[Kind], target: Path) -> Kind:
    first = members[0]
    for other in members[1:]:
        keys = ("split", "rows", "rows_per_shard", "data", "views")
        one, two = ({k: kind.spec[k] for k in keys} for kind in (first, other))
        _refuse_difference(first, other, one, two)
        if other.shape != first.shape:
            raise MenteeError(
                f"{other.folder} has rows of {other.shape}, {first.folder} of {first.shape}: "
                f"only teachers of the same classes can be averaged"
            )
    name = first.manifest.kind
    for kind in members:  # some may have a head of their own, others the task's logits already
        if _are_largest_alone(kind.spec["kinds"][kind.manifest.kind]):
            raise MenteeError(
                f"{kind.folder} keeps the largest logits only, of which there is no mean: set "
                f"cache.logits to float16 or uint8 and run `mentee dump` and `mentee head`"
            )
    spec = {**first.spec, "teacher": _ensemble(members)}
    if any("head" in kind.spec for kind in members):
        spec["head"] = {"members": [kind.spec.get("head") for kind in members]}
    encoding = encoding_of(spec["kinds"][name])
    views = min(kind.views for kind in members)
    places = [place for place in first.places if place.view < views]
    for place in places:
        logits = np.stack([kind.part(place) for kind in members])
        mean = logits.mean(axis=0, dtype=np.float64).astype(np.float32)
        if not np.isfinite(mean).all():
            raise MenteeError(
                f"{first.folder}, or one that it is averaged with, holds logits that are not "
                f"finite: dump or pull it again"
            )
        arrays = encoding.encode(mean)
        write_shard(place.path(target), arrays, spec, place, encoding.max_error(mean, arrays))
    return _opened(target, write_manifest(target, name, spec, places))


def _common_views(views: list[Kind], members: list[Kind], target: Path) -> Kind:
    """The first source's views as the ensemble's: the others must have been shown the same."""
    first = views[0]
    for other in views[1:]:
        for place in first.places[: len(other.places)]:
            if not np.array_equal(first.part(place, REGIONS), other.part(place, REGIONS)):
                raise MenteeError(f"{other.folder} has other views than {first.folder}")
    spec = {**first.spec, "teacher": _ensemble(members)}
    places = [place for place in first.places if place.view < min(v.views for v in views)]
    for place in places:
        arrays = {name: first.part(place, name) for name in (REGIONS, PIXELS)}
        write_shard(place.path(target), arrays, spec, place)
    return _opened(target, write_manifest(target, VIEWS, spec, places))


def _ensemble(members: list[Kind]) -> dict[str, Any]:
    """The teacher of an averaged cache; views replay at the first one's input size."""
    teachers = [kind.spec["teacher"] for kind in members]
    return {"ensemble": teachers, "input_size": teachers[0]["input_size"]}


def _refuse_difference(one: Kind, other: Kind, left: dict[str, Any], right: dict[str, Any]) -> None:
    different = differences(left, right)
    if different:
        key, (mine, theirs) = next(iter(different.items()))
        raise MenteeError(
            f"{other.folder} does not fit {one.folder}: {key} is {short(theirs)}, not "
            f"{short(mine)} (`mentee cache diff` shows all; --average takes several teachers)"
        )


def _refuse_other_dump(one: Kind, other: Kind) -> None:
    _refuse_difference(one, other, dump_of(one.spec), dump_of(other.spec))


def _refuse_partial(kind: Kind, views: Kind) -> None:
    """What was pulled in part, or dumped with fewer views, makes no cache with the views' kind."""
    if kind.views < views.views:
        raise MenteeError(
            f"{kind.folder} has {kind.views} views, {views.folder} has {views.views}: pull or dump "
            f"the others too"
        )


def _write_beside(kinds: list[tuple[str, Kind]], sources: dict[str, Path], target: Path) -> None:
    """spec.json and index.h5 of every split, where `sources` had them beside their views."""
    for path, kind in kinds:
        if kind.manifest.kind != VIEWS or path == ".":  # beside a kind alone lies what is not ours
            continue
        where = split_folder(target / path, kind.manifest)
        described = {
            other.manifest.kind: other.spec["kinds"][other.manifest.kind]
            for _, other in kinds
            if other.spec["split"] == kind.spec["split"] and "head" not in other.spec
        }
        beside = sources[path].parent
        if (beside / INDEX).is_file() and (beside / SPEC).is_file():
            spec = read_spec(beside)
            take_index(beside, spec, where)
            # An empty split keeps the number that was asked for.
            views = {**kind.spec["views"], "count": kind.views or spec["views"]["count"]}
            content = {**kind.spec, "views": views, "kinds": described}
            write_json(where / SPEC, {**content, "index": spec["index"]})

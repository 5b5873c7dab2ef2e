"""Clearing the scratch folder of shards that nobody asks for."""

from collections.abc import Iterator

from pipeline.cache.garbage import find_garbage, remove
from pipeline.cache.schema import Manifest
from pipeline.cache.writer import Scratch
from pipeline.lessons import CACHE
from pipeline.params import Params
from pipeline.stages.dump import SCRATCH, views_of_split
from pipeline.teacher_blocks import Tap


def tidy(params: Params, dry_run: bool) -> Iterator[str]:
    """Remove what neither params nor the caches under data/cache ask for; say what that was."""
    scratch = Scratch(SCRATCH)

    def views_of(manifest: Manifest) -> int:
        tap = manifest.kind.removeprefix("features/")
        if tap != manifest.kind:
            described = manifest.spec["kinds"][manifest.kind]
            asked = params.teacher.taps.get(tap)
            if asked is None or asked.described() != {
                key: described[key] for key in Tap.model_fields if key in described
            }:
                return 0
        return views_of_split(params, manifest.spec["split"])

    with scratch.locked():
        garbage = find_garbage(scratch, CACHE, views_of)
        for item in garbage:
            yield f"{item.path}: {item.bytes / 1e6:,.1f} MB"
        if not dry_run:
            remove(garbage)
    freed = sum(item.bytes for item in garbage)
    yield f"{freed / 1e6:,.1f} MB {'would be' if dry_run else 'were'} freed"
    for tap in unread_taps(params):
        yield (
            f"no head and no student of the sweep reads the tap {tap!r}: take it out of "
            f"teacher.taps, then `dvc repro` and gc again"
        )


def unread_taps(params: Params) -> list[str]:
    read = {params.head.tap} if params.head.fit else set()
    for variant in params.variants():
        if params.modes[variant.mode].reads_features:
            read |= {probe.teacher for probe in params.probes_of(params.settings[variant.settings])}
    return sorted(params.teacher.taps.keys() - read)

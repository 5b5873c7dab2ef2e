"""What stage two reads: images replayed as the teacher saw them, with what it said of them.

Images and the teacher's answers lie on the device where they fit; else they are gathered from
memory maps.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from pipeline.blocks import HERE, Views
from pipeline.cache.kinds import dump_of
from pipeline.cache.reader import Kind
from pipeline.cache.schema import MANIFEST, PIXELS, REGIONS, TASK_LOGITS, VIEWS, features_kind
from pipeline.compute import to_device
from pipeline.errors import MenteeError
from pipeline.mentoring.objective import Batch
from pipeline.prepared import Split
from pipeline.views import COLUMNS, check_regions, draw, pixel_digests, replay

CACHE = Path("data/cache")
OTHER_CACHES = Path("data/caches")  # of other teachers, each in a folder of its name
REPLAYED_AT_OPENING = 32  # views that are drawn again and compared with what the teacher saw
ANSWERS_AT_OPENING = 1000  # plain images whose answers are compared with their labels


class Lessons:
    """One split: its images, its views, and the teacher's answers that a student asks for."""

    def __init__(
        self, split: Split, regions: np.ndarray, logits: Sequence[Kind],
        features: dict[str, Kind], input_size: int, device: torch.device, resident_bytes: int = 0,
    ):  # fmt: skip
        """The mean of all `logits` is told, the geometric mean of the teachers' softmaxes.

        A GPU holds the images, then answers, smallest first, as long as `resident_bytes` last.
        """
        self.split = split
        self.views = len(regions)
        self.images = torch.from_numpy(split.images)
        if device.type == "cuda" and split.images.nbytes <= resident_bytes:
            self.images = self.images.to(device)
            resident_bytes -= split.images.nbytes
        self.regions = regions
        self.logits, self.features = logits, features
        self.input_size, self.device = input_size, device
        self._held: dict[Kind, torch.Tensor] = {}
        self.kinds = [*logits, *features.values()]
        for kind in sorted(self.kinds, key=lambda kind: kind.decoded_bytes):
            if kind.decoded_bytes <= resident_bytes:
                self._held[kind] = load(kind, device)
                resident_bytes -= kind.decoded_bytes

    def batch(self, rows: np.ndarray, views: np.ndarray) -> Batch:
        """The views `views[i]` of the samples `rows[i]`; both int64 `(n,)`."""
        answers = self.answers(self.kinds, rows, views)
        told, features = answers[: len(self.logits)], answers[len(self.logits) :]
        return Batch(
            self.shown(rows, views, self.input_size),
            to_device(self.split.labels[rows], self.device),
            mean_of(told),
            dict(zip(self.features, features, strict=True)),
        )

    def shown(self, rows: np.ndarray, views: np.ndarray, size: int) -> torch.Tensor:
        """The pictures of those views, uint8 `(n, 3, size, size)` on the device."""
        # Many times as fast on a CPU as indexing by a tensor.
        images = self.images.index_select(0, to_device(rows, self.images.device))
        images = images.to(self.device, non_blocking=True)
        return replay(images, self.regions[views, rows], size)

    def answers(
        self, kinds: Sequence[Kind], rows: np.ndarray, views: np.ndarray
    ) -> list[torch.Tensor]:
        """What the teacher said of those views, float32 `(n, ...)` of each kind on the device."""
        places = to_device(views * len(self.split) + rows, self.device)

        def told(kind: Kind) -> torch.Tensor:
            if kind in self._held:
                return self._held[kind].flatten(0, 1).index_select(0, places)
            return to_device(kind.gather(views, rows), self.device)

        return [told(kind).float() for kind in kinds]

    def replace_answers(self, kind: Kind, answers: np.ndarray) -> None:
        """From now on these are what the teacher said, float32 `(views, rows, ...)`."""
        self._held[kind] = to_device(answers, self.device)


def mean_of(logits: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """The mean of several teachers' logits; None if there are none."""
    if not logits:
        return None
    return logits[0] if len(logits) == 1 else torch.stack([*logits]).mean(0)


def load(kind: Kind, device: torch.device) -> torch.Tensor:
    """A whole kind on the device, decoded: `(views, rows, ...)`."""
    dtype = torch.from_numpy(kind.part(kind.places[0])[:0].copy()).dtype
    held = torch.empty((kind.views, kind.rows, *kind.shape), dtype=dtype, device=device)
    for place, values in kind.parts():
        held[place.view, place.start : place.stop] = torch.from_numpy(values.copy()).to(device)
    return held


def memory_for_lessons(device: torch.device, share: float) -> int:
    """Bytes of a GPU's free memory that lessons may fill; 0 on a CPU, where maps are memory."""
    if device.type != "cuda":
        return 0
    free, _ = torch.cuda.mem_get_info(device)
    return int(free * share)


def lone_lessons(
    split: Split, settings: Views, input_size: int, device: torch.device, resident_share: float
) -> Lessons:
    """Labels only: the same views that a teacher would be shown, and no cache."""
    drawn = [draw(split.ids, view, settings, split.image_size) for view in range(settings.labelled)]
    resident = memory_for_lessons(device, resident_share)
    return Lessons(split, np.stack(drawn), [], {}, input_size, device, resident)


def mentored_lessons(
    split: Split, reads_logits: bool, taps: Iterable[str], input_size: int, device: torch.device,
    root: Path = CACHE, resident_share: float = 0.0, teachers: Sequence[str] = (HERE,),
) -> Lessons:  # fmt: skip
    """A split with its teachers' answers, checked against the images.

    Those of the teacher here stand in `root/<split>`, those of others in OTHER_CACHES. A tap is a
    name, after the teacher's and a slash where it is another one.
    """
    roots = {name: root if name == HERE else OTHER_CACHES / name for name in teachers}
    views = {name: open_kind(folder, split, VIEWS) for name, folder in roots.items()}
    logits = {name: open_kind(folder, split, TASK_LOGITS) for name, folder in roots.items()
              if reads_logits}  # fmt: skip
    features = {}
    for tap in taps:
        name, own = teacher_and_tap(tap)
        features[tap] = open_kind(roots[name], split, features_kind(own))
        check_same_dump(features[tap], views[name])
    for name, kind in logits.items():
        check_same_dump(kind, views[name])
        check_classes(split, kind)
    for kind in views.values():
        check_replay(split, kind)
    for kind in logits.values():
        check_answers(split, kind)
    regions = common_regions(list(views.values()))
    check_regions(regions.reshape(-1, len(COLUMNS)), split.image_size, views[teachers[0]].folder)
    resident = memory_for_lessons(device, resident_share)
    return Lessons(split, regions, [*logits.values()], features, input_size, device, resident)


def teacher_and_tap(address: str) -> tuple[str, str]:
    """The two names in a tap's address: `pooled` is the teacher's here, `lite2/pooled` lite2's."""
    teacher, _, tap = address.rpartition("/")
    return teacher or HERE, tap


def check_same_dump(kind: Kind, views: Kind) -> None:
    """A MenteeError unless a kind is of the dump that showed `views`, and has all of them."""
    if dump_of(kind.spec) != dump_of(views.spec):
        raise MenteeError(
            f"{kind.folder} is of another dump than {views.folder}: run `mentee dump` and "
            f"`mentee head` again, or `dvc update` all imports to one revision"
        )
    if kind.views < views.views:
        raise MenteeError(
            f"{kind.folder} has {kind.views} views, {views.folder} has {views.views}: "
            f"run `mentee dump` and `mentee head` again"
        )


def check_classes(split: Split, logits: Kind) -> None:
    """A MenteeError unless the logits are over the classes of the split."""
    if logits.shape != (len(split.class_names),):
        raise MenteeError(
            f"{logits.folder} speaks {logits.shape[0]} classes, the data set has "
            f"{len(split.class_names)}: run `mentee head` with head.fit true"
        )


def common_regions(kinds: list[Kind]) -> np.ndarray:
    """What all teachers were shown, int32 `(views, n, 5)`; a MenteeError if they saw others."""
    first, *others = kinds
    count = min(kind.views for kind in kinds)
    regions = np.stack([first.view(view, REGIONS) for view in range(count)])
    for other in others:
        for view in range(count):
            if not np.array_equal(other.view(view, REGIONS), regions[view]):
                raise MenteeError(
                    f"{other.folder} has other views than {first.folder}: dump both with the same "
                    f"seed, padding and flip under views"
                )
    return regions


def open_kind(root: Path, split: Split, name: str) -> Kind:
    """A kind of a split's cache; a MenteeError if it is damaged or was made for other images."""
    folder = root / split.name / name
    others = sorted(path.parent.name for path in folder.parent.glob(f"*/{MANIFEST}"))
    if name.startswith("features/") and others and not folder.is_dir():
        raise MenteeError(
            f"{folder} is not there, the taps that are there: {', '.join(others)}; name one of "
            f"them, or add the tap to teacher.taps and run `mentee dump`, or `dvc pull` it"
        )
    kind = Kind(folder)
    recorded = kind.spec["data"]
    if recorded["class_names"] != list(split.class_names):
        raise MenteeError(f"{folder} was made for other classes, or in another order: dump again")
    if recorded["digest"] != split.digest or kind.rows != len(split):
        raise MenteeError(
            f"{folder} was made for other images than the {split.name} split: dump again"
        )
    return kind


def check_replay(split: Split, views: Kind) -> None:
    """Draw some views again at the teacher's input size and compare their pixels' digests."""
    generator = np.random.default_rng(0)
    rows = generator.integers(len(split), size=REPLAYED_AT_OPENING)
    numbers = generator.integers(views.views, size=REPLAYED_AT_OPENING)
    regions = views.gather(numbers, rows, REGIONS)
    check_regions(regions, split.image_size, views.folder)
    images = torch.from_numpy(split.images[rows])
    pictures = replay(images, regions, views.spec["teacher"]["input_size"])
    wrong = np.flatnonzero(pixel_digests(pictures) != views.gather(numbers, rows, PIXELS))
    if len(wrong):
        sample, view = split.ids[rows[wrong[0]]], numbers[wrong[0]]
        raise MenteeError(
            f"{views.folder}: view {view} of {sample} replays to other pixels than the teacher "
            f"saw ({len(wrong)} of {len(rows)} tried): use the library versions of the dump, or "
            f"dump again"
        )


def check_answers(split: Split, logits: Kind) -> None:
    """Compare the teacher's accuracy on plain labelled images with what its head recorded.

    Answers out of order are right by chance only; a lossy encoding moves few of them.
    """
    head = logits.spec.get("head")
    recorded = head.get("labelled_accuracy") if isinstance(head, dict) else None
    if not isinstance(recorded, float) or split.name != "labelled":
        return  # a teacher that spoke the task's classes already, or several that were merged
    rows = np.random.default_rng(0).permutation(len(split))[:ANSWERS_AT_OPENING]
    answers = logits.gather(np.zeros_like(rows), rows).argmax(1)
    accuracy = float((answers == split.labels[rows]).mean())
    if accuracy < (recorded + 1 / len(split.class_names)) / 2:
        raise MenteeError(
            f"{logits.folder} answers {accuracy:.0%} of the labelled images rightly, its head had "
            f"{recorded:.0%}: its answers are out of order, fetch it again or run `mentee head`"
        )

"""head: the teacher's penultimate features -> logits over the task's own classes, without it."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pipeline.cache import schema
from pipeline.cache.encodings import encoding_of, logits_encoding
from pipeline.cache.reader import Kind
from pipeline.cache.shard import write_shard
from pipeline.cache.writer import link_or_copy, write_manifest
from pipeline.errors import MenteeError
from pipeline.files import replaced_whole, write_json
from pipeline.heads import (
    UNCERTAINTY,
    Head,
    choose_head,
    common_scale,
    fit_heads,
    self_train,
    uncertainty_of_one,
)
from pipeline.lessons import CACHE, open_kind
from pipeline.metrics import score
from pipeline.params import Params
from pipeline.posteriors import langevin, laplace
from pipeline.prepared import PREPARED_FILE, SPLITS, Split, read_split
from pipeline.progress import say, track, warn

HEAD_FILE = Path("metrics/head.json")
KINDS = (schema.TASK_LOGITS, schema.TASK_UNCERTAINTY)
UNCERTAINTY_ROWS = {"encoding": "float32", "shape": [len(UNCERTAINTY)]}
SEED = 0  # of a posterior's samples
LITTLE = 0.1  # of the way from chance to perfect answers


def head(params: Params) -> None:
    """Write task_logits and task_uncertainty of every split, and the head's scores to HEAD_FILE.

    A MenteeError where the tap's features are maps, or a cache is not of the prepared images.
    """
    splits = {name: read_split(PREPARED_FILE, name) for name in SPLITS}
    if params.head.fit:
        chosen = fit(params, splits["labelled"], splits["validation"])
        accuracy = plain_accuracy(params, splits["labelled"], chosen)
        for split in track(splits.values(), "head's logits", len(splits)):
            write_task_logits(params, split, chosen, accuracy)
    else:
        for split in splits.values():
            take_over_logits(split)
    validation = splits["validation"]
    logits = open_kind(CACHE, validation, schema.TASK_LOGITS).view(0)
    scores = score(logits, validation.labels)
    fitted = chosen.describe() if params.head.fit else {}
    write_json(HEAD_FILE, {"validation": scores, **fitted})
    say(f"teacher's validation accuracy {scores['accuracy']:.1%}, nll {scores['nll']:.3f}")
    if warning := doubt(scores["accuracy"], validation.labels):
        warn(warning)


def doubt(accuracy: float, labels: np.ndarray) -> str | None:
    """A warning where a teacher knows little more than which of `labels` int64 `(n,)` is usual.

    Good teachers are far above that; one that was shown pictures as it never saw them is not.
    """
    chance = np.bincount(labels).max() / len(labels)
    if accuracy > chance + LITTLE * (1 - chance):
        return None
    return (
        f"warning: the teacher is right about {accuracy:.1%} of the validation images, where one "
        f"answer for all would be about {chance:.1%}: look at teacher.input_size, mean, std and "
        f"weights, and at head.tap"
    )


def fit(
    params: Params, labelled: Split, validation: Split, rows: np.ndarray | slice = slice(None)
) -> Head:
    """A head, or samples of one, from every view of the labelled split, or of some of its rows.

    With self-training the unlabelled images, as they are, take part by the head's own answers.
    Validation chooses the regularisation, which is the prior's scale, and the temperature of a
    posterior: that under which its labels are likeliest.
    """
    kind = schema.features_kind(params.head.tap)
    seen = open_kind(CACHE, labelled, kind)
    if len(seen.shape) != 1:
        raise MenteeError(f"head.tap: {params.head.tap!r} is a map {seen.shape}: set its grid to 1")
    features = np.concatenate([finite(seen, view)[rows] for view in range(seen.views)])
    labels = np.tile(labelled.labels[rows], seen.views)
    plain = finite(open_kind(CACHE, validation, kind), 0)
    mean, std = seen.statistics()
    settings = params.head
    heads = fit_heads(features, labels, mean, common_scale(std), settings.inverse_regularisation)
    if settings.self_training and len(unlabelled := read_split(PREPARED_FILE, "unlabelled")):
        more = finite(open_kind(CACHE, unlabelled, kind), 0)
        heads, features, labels = self_train(
            heads, features, labels, more, settings.self_training, plain, validation.labels
        )
    inputs = heads[0].standardise(features)
    choices: Iterable[Head] = heads
    if settings.posterior == "laplace":
        choices = laplace(heads, inputs, settings.temperatures, settings.samples, SEED)
    elif settings.posterior == "langevin":
        choices = langevin(heads, inputs, labels, settings.temperatures, settings.samples, SEED)
    count = len(heads) * (1 if settings.posterior == "point" else len(settings.temperatures))
    choices = track(choices, f"choosing the head ({settings.posterior})", count)
    return choose_head(choices, plain, validation.labels)


def finite(kind: Kind, view: int) -> np.ndarray:
    """Every row of a view `(n, C)`; a MenteeError where they are no numbers, as no dump writes."""
    features = kind.view(view)
    if not np.isfinite(features).all():
        raise MenteeError(
            f"{kind.folder}: view {view} holds features that are not finite: dump or pull it again"
        )
    return features


def plain_accuracy(params: Params, labelled: Split, chosen: Head) -> float:
    """How often the head is right about the plain images that it was fitted on."""
    features = open_kind(CACHE, labelled, schema.features_kind(params.head.tap)).view(0)
    logits, _ = chosen.predict(features)
    return score(logits, labelled.labels)["accuracy"]


def write_task_logits(params: Params, split: Split, chosen: Head, labelled_accuracy: float) -> None:
    """The head's logits of every view of a split, and its uncertainty, beside the features."""
    folders = [CACHE / split.name / kind for kind in KINDS]
    if not len(split):
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        return
    features = open_kind(CACHE, split, schema.features_kind(params.head.tap))
    classes = len(split.class_names)
    head = {
        "features": features.fingerprint,
        "labelled_accuracy": labelled_accuracy,
        "posterior": params.head.posterior,
        **chosen.describe(),
    }
    described = {"encoding": logits_encoding(params.cache.logits, classes), "shape": [classes]}
    common = {**features.spec, "head": head}
    logits_spec = {**common, "kinds": {schema.TASK_LOGITS: described}}
    unsure_spec = {**common, "kinds": {schema.TASK_UNCERTAINTY: UNCERTAINTY_ROWS}}
    encoding = encoding_of(described)
    with replaced_whole(folders[0]) as fresh, replaced_whole(folders[1]) as unsure:
        for place, rows in features.parts():
            logits, uncertainty = chosen.predict(rows)
            arrays = encoding.encode(logits)
            if not np.isfinite(encoding.decode(arrays)).all():
                raise MenteeError(
                    f"the head's logits of {split.name}, view {place.view}, are not finite as "
                    f"{params.cache.logits}: set cache.logits to float32"
                )
            error = encoding.max_error(logits, arrays)
            write_shard(place.path(fresh), arrays, logits_spec, place, error)
            write_shard(place.path(unsure), {schema.VALUES: uncertainty}, unsure_spec, place)
        write_manifest(fresh, schema.TASK_LOGITS, logits_spec, features.places)
        write_manifest(unsure, schema.TASK_UNCERTAINTY, unsure_spec, features.places)


def take_over_logits(split: Split) -> None:
    """A teacher that already speaks the task's classes: its own logits, the very same files."""
    folders = [CACHE / split.name / kind for kind in KINDS]
    if not len(split):
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        return
    logits: Kind = open_kind(CACHE, split, schema.LOGITS)
    if logits.shape != (len(split.class_names),):
        raise MenteeError(
            f"head.fit: the teacher speaks {logits.shape[0]} classes, the task has "
            f"{len(split.class_names)}: set head.fit to true, or tune the teacher (finetune.layers)"
        )
    unsure_spec = {**logits.spec, "kinds": {schema.TASK_UNCERTAINTY: UNCERTAINTY_ROWS}}
    with replaced_whole(folders[0]) as fresh, replaced_whole(folders[1]) as unsure:
        for place, rows in logits.parts():
            link_or_copy(place.path(logits.folder), place.path(fresh))
            uncertainty = uncertainty_of_one(rows)
            write_shard(place.path(unsure), {schema.VALUES: uncertainty}, unsure_spec, place)
        write_manifest(fresh, schema.LOGITS, logits.spec, logits.places)
        write_manifest(unsure, schema.TASK_UNCERTAINTY, unsure_spec, logits.places)

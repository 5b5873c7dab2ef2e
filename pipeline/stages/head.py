"""head: the teacher's penultimate features -> logits over the task's own classes, without it."""

import hashlib
from pathlib import Path

import numpy as np

from pipeline.cache import schema
from pipeline.cache.encodings import encoding_of, logits_encoding
from pipeline.cache.reader import Kind
from pipeline.cache.shard import write_shard
from pipeline.cache.writer import link_or_copy, write_manifest
from pipeline.errors import MenteeError
from pipeline.files import replaced_whole, write_json
from pipeline.heads import LinearHead, fit_head
from pipeline.lessons import CACHE, open_kind
from pipeline.metrics import score
from pipeline.params import Params
from pipeline.prepared import PREPARED_FILE, SPLITS, Split, read_split
from pipeline.progress import say, track

HEAD_FILE = Path("metrics/head.json")


def head(params: Params) -> None:
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
    fitted = {"inverse_regularisation": chosen.inverse_regularisation} if params.head.fit else {}
    write_json(HEAD_FILE, {"validation": scores, **fitted})
    say(f"teacher's validation accuracy {scores['accuracy']:.1%}, nll {scores['nll']:.3f}")


def fit(params: Params, labelled: Split, validation: Split) -> LinearHead:
    """A head from every view of the labelled split; validation chooses its regularisation."""
    kind = schema.features_kind(params.head.tap)
    seen = open_kind(CACHE, labelled, kind)
    if len(seen.shape) != 1:
        raise MenteeError(f"head.tap: {params.head.tap!r} is a map {seen.shape}: set its grid to 1")
    features = np.concatenate([seen.view(view) for view in range(seen.views)])
    labels = np.tile(labelled.labels, seen.views)
    plain = open_kind(CACHE, validation, kind).view(0)
    strengths = params.head.inverse_regularisation
    mean, std = seen.statistics()
    return fit_head(features, labels, plain, validation.labels, mean, std, strengths)


def plain_accuracy(params: Params, labelled: Split, chosen: LinearHead) -> float:
    """How often the head is right about the plain images that it was fitted on."""
    features = open_kind(CACHE, labelled, schema.features_kind(params.head.tap)).view(0)
    return score(chosen.logits(features), labelled.labels)["accuracy"]


def write_task_logits(
    params: Params, split: Split, chosen: LinearHead, labelled_accuracy: float
) -> None:
    """The head's logits for every view of a split, in shards beside the features."""
    if not len(split):
        (CACHE / split.name / schema.TASK_LOGITS).mkdir(parents=True, exist_ok=True)
        return
    features = open_kind(CACHE, split, schema.features_kind(params.head.tap))
    classes = len(split.class_names)
    digest = hashlib.sha256(chosen.weight.tobytes() + chosen.bias.tobytes()).hexdigest()
    spec = {
        **features.spec,
        "head": {
            "features": features.fingerprint,
            "inverse_regularisation": chosen.inverse_regularisation,
            "sha256": digest,
            "labelled_accuracy": labelled_accuracy,
        },
        "kinds": {
            schema.TASK_LOGITS: {
                "encoding": logits_encoding(params.cache.logits, classes), "shape": [classes],
            }
        },
    }  # fmt: skip
    described = spec["kinds"][schema.TASK_LOGITS]
    encoding = encoding_of(described)
    with replaced_whole(CACHE / split.name / schema.TASK_LOGITS) as fresh:
        for place, rows in features.parts():
            logits = chosen.logits(rows)
            arrays = encoding.encode(logits)
            if not np.isfinite(encoding.decode(arrays)).all():
                raise MenteeError(
                    f"the head's logits of {split.name}, view {place.view}, are not finite in "
                    f"{described['encoding']}: set cache.logits to float32"
                )
            error = encoding.max_error(logits, arrays)
            write_shard(place.path(fresh), arrays, spec, place, error)
        write_manifest(fresh, schema.TASK_LOGITS, spec, features.places)


def take_over_logits(split: Split) -> None:
    """A teacher that already speaks the task's classes: its own logits, the very same files."""
    folder = CACHE / split.name
    if not len(split):
        (folder / schema.TASK_LOGITS).mkdir(parents=True, exist_ok=True)
        return
    logits: Kind = open_kind(CACHE, split, schema.LOGITS)
    if logits.shape != (len(split.class_names),):
        raise MenteeError(
            f"head.fit: the teacher speaks {logits.shape[0]} classes, the task has "
            f"{len(split.class_names)}: set head.fit to true"
        )
    with replaced_whole(folder / schema.TASK_LOGITS) as fresh:
        for place in logits.places:
            link_or_copy(place.path(logits.folder), place.path(fresh))
        write_manifest(fresh, schema.LOGITS, logits.spec, logits.places)

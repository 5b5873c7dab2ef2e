"""efficiency: a student that may use fewer of the labels, and whose teacher's head has no more."""

from pathlib import Path

import numpy as np

from pipeline.blocks import HERE
from pipeline.cache.schema import features_kind
from pipeline.errors import MenteeError
from pipeline.files import write_json
from pipeline.lessons import CACHE, Lessons, open_kind
from pipeline.metrics import score
from pipeline.params import Params
from pipeline.prepared import PREPARED_FILE, read_split
from pipeline.progress import say
from pipeline.runs import Run, set_up
from pipeline.stages.head import fit
from pipeline.training import predict_logits
from pipeline.transfer import drawn_rows
from pipeline.variants import Budget, Variant

EVIDENCE = Path("evidence/efficiency")


def efficiency(params: Params, budget: Budget) -> None:
    """Train as `train` does on so many labels a class; write scores on validation and test.

    The seed draws which labels: the fewer are among the more. Views, features and unlabelled images
    are the caches' own; where soft targets are read, a head is fitted on these labels alone.
    """
    run = set_up(params, budget.variant)
    labelled = run.lessons[0].split
    refuse_too_many(budget.labels, labelled.labels)
    refuse_told_all(params, budget.variant, run.lessons[0])
    rows = np.sort(drawn_rows(labelled.labels, budget.labels, budget.variant.seed))
    run.mixture.keep_to(rows)
    if run.lessons[0].logits:
        ask_another_head(params, run, rows)
    run.go(params.training, lambda look: None)
    test = read_split(PREPARED_FILE, "test")
    scores = {
        split.name: score(predict_logits(run.student, split.images, run.compute), split.labels)
        for split in (run.validation, test)
    }
    write_json(EVIDENCE / f"{budget.name}.json", scores)
    say(f"{budget.name}: test accuracy {scores['test']['accuracy']:.1%}")


def refuse_too_many(count: int, labels: np.ndarray) -> None:
    there = int(np.bincount(labels).min())
    if count > there:
        raise MenteeError(
            f"efficiency: {count} labels a class are asked for, there are {there}: take fewer, or "
            f"raise data.labelled_per_class"
        )


def refuse_told_all(params: Params, variant: Variant, labelled: Lessons) -> None:
    """A MenteeError where a teacher's answers tell of labels that the student may not use."""
    settings = params.settings[variant.settings]
    if labelled.logits and settings.reads_others:
        raise MenteeError(
            "efficiency: the heads of other teachers know all labels: leave out settings that name "
            "them"
        )
    if labelled.kinds and HERE in settings.teachers and params.teacher_knows_all:
        raise MenteeError(
            "efficiency: students with fewer labels need a teacher with no more: set "
            "finetune.layers to none and head.fit to true"
        )


def ask_another_head(params: Params, run: Run, rows: np.ndarray) -> None:
    """The teacher says what its head would say that has seen the labels of these rows alone."""
    chosen = fit(params, run.lessons[0].split, run.validation, rows)
    for lessons in run.lessons:
        features = open_kind(CACHE, lessons.split, features_kind(params.head.tap))
        views = [chosen.predict(features.view(view))[0] for view in range(lessons.views)]
        lessons.replace_answers(lessons.logits[0], np.stack(views))

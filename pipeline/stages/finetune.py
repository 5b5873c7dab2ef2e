"""finetune: the teacher learns the task's labels before the dump, where params ask for it."""

from pipeline.errors import MenteeError
from pipeline.files import digest_file, replaced_whole, write_json
from pipeline.params import Params
from pipeline.progress import say
from pipeline.tuned import CARD_FILE, TUNED, WEIGHTS_FILE, origin


def finetune(params: Params) -> None:
    """Write TUNED: the teacher's weights after tuning, or a card that says it stays as it is."""
    if params.finetune.layers == "none":
        with replaced_whole(TUNED) as fresh:
            write_json(fresh / CARD_FILE, {"origin": {"layers": "none"}})
        say("finetune.layers is none: the teacher stays as it is")
    else:
        finetune_teacher(params)


def finetune_teacher(params: Params) -> None:
    """Tune the teacher on the labelled split; write its weights and their card."""
    # Not above: most runs have nothing to tune, and are over before torch would be loaded.
    import numpy as np
    import torch
    from safetensors.torch import save

    from pipeline.compute import choose_compute
    from pipeline.lessons import lone_lessons
    from pipeline.metrics import score
    from pipeline.prepared import PREPARED_FILE, read_split
    from pipeline.teachers import load_teacher, replace_classifier
    from pipeline.tuning import predict_logits, tune

    compute = choose_compute(params.runtime)
    labelled, validation = (read_split(PREPARED_FILE, name) for name in ("labelled", "validation"))
    teacher = load_teacher(params.teacher, compute)
    torch.manual_seed(params.finetune.seed)
    classifier = replace_classifier(teacher.network, len(labelled.class_names))
    lessons = lone_lessons(
        labelled, params.views, teacher.input_size, compute.device, params.runtime.resident_share
    )
    say(f"teacher {params.teacher.model} on {compute}: {len(labelled)} labels to learn")
    tune(teacher, classifier, lessons, params.finetune)
    logits = predict_logits(teacher, validation)
    if not np.isfinite(logits).all():
        raise MenteeError("the tuned teacher's logits are not finite: lower finetune.learning_rate")
    scores = score(logits, validation.labels)
    state = teacher.network.cpu().state_dict()
    with replaced_whole(TUNED) as fresh:
        weights = fresh / WEIGHTS_FILE
        content = {name: value.contiguous() for name, value in state.items()}
        weights.write_bytes(save(content))  # of a full disk safetensors has an error of its own
        card = {
            "origin": origin(params, labelled),
            "sha256": digest_file(weights),
            "validation": scores,
        }
        write_json(fresh / CARD_FILE, card)
    say(f"tuned teacher's validation accuracy {scores['accuracy']:.1%} -> {TUNED}")

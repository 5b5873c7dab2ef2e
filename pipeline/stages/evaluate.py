"""evaluate: one student, or the teacher with its head, on the test split."""

from pathlib import Path

import torch

from pipeline.cache.schema import TASK_LOGITS
from pipeline.compute import choose_compute
from pipeline.files import read_json, write_json
from pipeline.latency import latency
from pipeline.lessons import CACHE, open_kind
from pipeline.metrics import score
from pipeline.params import Params
from pipeline.prepared import PREPARED_FILE, read_split
from pipeline.progress import say
from pipeline.stages.train import STUDENTS
from pipeline.students import load_student
from pipeline.training import predict_logits
from pipeline.variants import Variant

METRICS = Path("metrics")
DUMP_RUN = Path("runs/dump.json")


def evaluate(params: Params, variant: Variant) -> None:
    """Scores on validation and test, size and speed of one student."""
    compute = choose_compute(params.runtime)
    student = load_student(STUDENTS / variant.name).to(compute.device)
    scores = {}
    for name in ("validation", "test"):
        split = read_split(PREPARED_FILE, name)
        logits = predict_logits(student, split.images, compute, f"answers to {name}")
        scores[name] = score(logits, split.labels)

    @torch.inference_mode()
    def answer(pictures: torch.Tensor) -> torch.Tensor:
        with compute.autocast():
            return student(pictures)

    size = student.card.input_size
    content = {
        **scores,
        "parameters": student.count_parameters(),
        "latency_ms": latency(answer, size, compute.device),
    }
    write_json(METRICS / f"{variant.name}.json", content)
    say(f"{variant.name}: test accuracy {scores['test']['accuracy']:.1%}")


def evaluate_teacher() -> None:
    """The same scores from the teacher's cached logits; size and speed as the dump saw them."""
    scores = {}
    for name in ("validation", "test"):
        split = read_split(PREPARED_FILE, name)
        scores[name] = score(open_kind(CACHE, split, TASK_LOGITS).view(0), split.labels)
    run = read_json(DUMP_RUN)
    size = {key: run[key] for key in ("parameters", "latency_ms")}
    write_json(METRICS / "teacher.json", {**scores, **size})
    say(f"teacher: test accuracy {scores['test']['accuracy']:.1%}")

"""Students trained with other distances than the default's, from what a small teacher said.

Scikit-learn's digits, a teacher with random weights, a handful of steps.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from caches import mentee
from killing import prepare_small, set_params
from stage_one import enter_copy, run_stage_one
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.cache.reader import Kind
from pipeline.files import read_json
from pipeline.mentoring.distances import DISTANCES
from pipeline.mentoring.losses import SOFT_TARGET_DISTANCES
from pipeline.mixtures import NEGATIVES
from pipeline.params import Params, load_params
from pipeline.runs import set_up
from pipeline.variants import Variant

FEW_STEPS: dict[str, Any] = {
    "data": {"labelled_per_class": 4, "unlabelled": 20, "validation": 20, "test": 20},
    "cache": {"rows_per_shard": 30},
    "head": {"inverse_regularisation": [0.01]},
    "student": {"width": 8, "input_size": 16},
    "training": {"steps": 6, "batch_size": 8, "validations": 1},
    "modes": {"both": {"alpha": [[0, 0.0]], "beta": [[0, 1.0]], "gamma": [[0, 1.0]]}},
    "settings": {"mixed": {"unlabelled": 0.5}},
}
ANY_MATCH = {"channels": "random_projection", "grid": "none", "nothing": "none",
             "negatives": "none"}  # fmt: skip
PROBES = [
    {"teacher": "middle", "student": "conv4", "distance": name, "match": ANY_MATCH[chosen.needs]}
    for name, chosen in DISTANCES.items()
]


def change(**blocks: Any) -> Params:
    set_params(Path(), **{**FEW_STEPS, **blocks})
    return load_params()


def few_steps() -> Params:
    prepare_small(Path())
    return change()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which prepare, dump and head have run: not to be changed."""
    return run_stage_one(tmp_path_factory.mktemp("finished"), few_steps)


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter_copy(finished, tmp_path / "project", monkeypatch)


@pytest.fixture
def of_two_logits(project: Path) -> Path:
    """The same, where the head has written the two largest of ten logits."""
    change(cache={"rows_per_shard": 30, "logits": "top2"})
    assert mentee("head").exit_code == 0
    kind = Kind(project / "data/cache/labelled/task_logits")
    assert kind.spec["kinds"]["task_logits"]["encoding"] == "top2"
    return project


def train(*arguments: str) -> str:
    """What `mentee train` says: one line where it refuses, and it leaves no student then."""
    done = mentee("train", *arguments)
    if done.exit_code:
        assert len(done.stderr.splitlines()) == 1, done.output
        assert not list(Path("students").glob("*"))
    return done.stderr if done.exit_code else "trained"


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe["distance"])
def test_a_student_trains_with_any_distance_of_its_probe(
    project: Path, probe: dict[str, str]
) -> None:
    change(probes=[probe])
    assert train("both", "--settings", "mixed") == "trained"
    last = read_json(project / "students/both-mixed-0/live/metrics.json")
    assert set(last["loss"]) == {"probe middle conv4", "soft targets"}


def test_a_probe_of_little_weight_counts_for_little(project: Path) -> None:
    other = {"teacher": "pooled", "student": "pooled", "match": "projection"}
    change(probes=[{**PROBES[0], "weight": 1e-6}, other])
    assert train("both", "--settings", "mixed") == "trained"
    last = read_json(project / "students/both-mixed-0/live/metrics.json")
    assert float(last["loss"]["probe middle conv4"]) < 1e-4
    assert float(last["loss"]["probe pooled pooled"]) > 1e-2


@pytest.mark.parametrize("distance", ["kl", "kl_by_certainty", "rmse", "dkd", "dist"])
def test_a_student_trains_with_any_distance_of_soft_targets(project: Path, distance: str) -> None:
    change(soft_targets={"distance": distance, "temperature": 3.0})
    assert train("both", "--settings", "mixed") == "trained"


class Questions(TorchDispatchMode):
    """How often values are asked of a device, which on a GPU means to wait for it."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.name().removeprefix("aten::").split(".")[0]
        masked = name == "index" and any(
            place is not None and place.dtype == torch.bool for place in args[1]
        )
        self.count += masked or name.startswith(self.NAMES)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("distance", SOFT_TARGET_DISTANCES)
def test_only_looks_at_validation_ask_a_device_for_values(project: Path, distance: str) -> None:
    params = change(probes=PROBES, soft_targets={"distance": distance, "temperature": 3.0})
    counts = []
    for steps in (3, 9):
        training = params.training.model_copy(update={"steps": steps, "gradient_clip": 1.0})
        run = set_up(params, Variant("both", "mixed", 0))
        with Questions() as asked:
            run.go(training, lambda look: None)
        counts.append(asked.count)
    assert counts[0] == counts[1] > 0


def test_a_student_learns_to_point_to_what_was_said_of_its_picture(project: Path) -> None:
    """By chance it is one of all: log(1 + negatives), of which some show the picture itself."""
    probe = {"teacher": "pooled", "student": "pooled", "distance": "crd", "match": "none"}
    longer = {"steps": 100, "batch_size": 8, "validations": 10}
    pointing = {"both": {"alpha": [[0, 0.0]], "beta": [[0, 1.0]], "gamma": [[0, 0.0]]}}
    change(probes=[probe], training=longer, modes=pointing)
    for settings in ("plain", "mixed"):
        assert train("both", "--settings", settings) == "trained"
        curves = project / f"students/both-{settings}-0/live/plots/metrics/loss"
        _, *lines = (curves / "probe pooled pooled.tsv").read_text().splitlines()
        losses = [float(line.split()[1]) for line in lines]
        assert losses[0] == pytest.approx(math.log(1 + NEGATIVES), abs=0.3)
        assert losses[-1] < losses[0] - 1


def test_attention_at_a_pooled_tap_is_refused(project: Path) -> None:
    change(probes=[PROBES[-1] | {"teacher": "pooled", "distance": "attention_transfer"}])
    text = train("both")
    assert "attention_transfer compares places, the teacher's features (" in text
    assert "take another distance" in text


@pytest.mark.parametrize(
    ("distance", "temperature"),
    [("kl", 3.0), ("kl_by_certainty", 1.0), ("rmse", 1.0), ("dkd", 1.0), ("dist", 1.0)],
)
@pytest.mark.parametrize("settings", ["plain", "mixed"])
def test_a_loss_that_needs_every_logit_is_refused_where_few_are_kept(
    of_two_logits: Path, distance: str, temperature: float, settings: str
) -> None:
    few = {"rows_per_shard": 30, "logits": "top2"}
    change(cache=few, soft_targets={"distance": distance, "temperature": temperature})
    text = train("both", "--settings", settings)
    assert f"soft_targets: {distance} at temperature {temperature:g} needs every logit" in text
    assert "data/cache/labelled/task_logits keeps the 2 largest" in text
    assert "set cache.logits to float16 or uint8" in text
    assert "or take kl at temperature 1" in text


def test_the_usual_loss_at_temperature_1_and_probes_alone_do_with_few(of_two_logits: Path) -> None:
    few = {"rows_per_shard": 30, "logits": "top2"}
    change(cache=few, soft_targets={"distance": "kl", "temperature": 1.0})
    assert train("both") == "trained"
    probes = {"probing": {"alpha": [[0, 1.0]], "beta": [[0, 1.0]], "gamma": [[0, 0.0]]}}
    change(cache=few, modes=probes)
    assert train("probing") == "trained"


@pytest.mark.parametrize("logits", ["float32", "uint8"])
def test_whole_logits_serve_every_loss_however_they_are_stored(project: Path, logits: str) -> None:
    stored = {"rows_per_shard": 30, "logits": logits}
    change(cache=stored, soft_targets={"distance": "dkd", "temperature": 3.0})
    assert mentee("head").exit_code == 0
    assert train("both") == "trained"

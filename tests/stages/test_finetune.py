"""`mentee finetune`: what learns, what stays, and that the dump asks the tuned teacher.

Scikit-learn's digits and the default teacher at 64 pixels, unless a test says otherwise.
"""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from caches import files_under, mentee
from projects import refusal, shell
from safetensors.torch import load_file, save_file
from stage_one import SMALLEST, enter_copy, set_params
from torch import nn

from pipeline.cache.reader import Kind
from pipeline.compute import choose_compute
from pipeline.files import digest_file, read_json, write_json
from pipeline.lessons import lone_lessons
from pipeline.params import Params
from pipeline.prepared import PREPARED_FILE, read_split
from pipeline.stages.dump import dump
from pipeline.stages.finetune import finetune
from pipeline.stages.prepare import prepare
from pipeline.teachers import Teacher, load_teacher, replace_classifier
from pipeline.tuned import find_tuned, origin
from pipeline.tuning import thaw, tune

TEACHER, SPEC = Path("data/teacher"), Path("data/cache/labelled/spec.json")
WEIGHTS, CARD = TEACHER / "weights.safetensors", TEACHER / "teacher.json"
TASK: dict[str, Any] = {
    "data": {"labelled_per_class": 5, "validation": 40},
    "finetune": {"steps": 3, "batch_size": 8},
    "student": {"width": 8},
    "training": {"steps": 6, "batch_size": 8, "validations": 1},
}
LAST = ["blocks.6", "conv_head", "bn2"]
LEARNT = {"steps": 40, "batch_size": 16, "learning_rate": 0.003}  # enough to know some digits


def params_of(layers: str | list[str], **changes: Any) -> Params:
    return set_params(SMALLEST, TASK, {"finetune": {"layers": layers}}, changes)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and nothing else: not to be changed."""
    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare(params_of("none"))
    return folder


@pytest.fixture
def project(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter_copy(prepared, tmp_path / "project", monkeypatch)


@pytest.fixture(scope="module")
def finished(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the last blocks have learnt and the teacher was dumped: likewise."""
    folder = tmp_path_factory.mktemp("finished") / "project"
    with pytest.MonkeyPatch.context() as patch:
        enter_copy(prepared, folder, patch)
        params = params_of(LAST, finetune=LEARNT)
        finetune(params)
        dump(params)
    return folder


@pytest.fixture
def tuned(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter_copy(finished, tmp_path / "tuned", monkeypatch)


def state_before(params: Params) -> dict[str, torch.Tensor]:
    return load_teacher(params.teacher, choose_compute(params.runtime)).network.state_dict()


def changed(params: Params) -> set[str]:
    """The names of the tuned teacher's tensors that are not bit for bit those it began with."""
    before, after = state_before(params), load_file(WEIGHTS)
    assert after.keys() == before.keys()
    return {name for name in after if not torch.equal(after[name], before[name])}


def inside(names: set[str], *paths: str) -> set[str]:
    return {name for name in names if name.startswith(tuple(f"{path}." for path in paths))}


# What learns


def test_a_new_head_leaves_every_other_number_as_it_was(project: Path) -> None:
    params = params_of("head")
    finetune(params)
    assert changed(params) == {"classifier.weight", "classifier.bias"}
    assert load_file(WEIGHTS)["classifier.weight"].shape == (10, 1280)


def test_the_last_blocks_learn_with_their_statistics_and_the_others_keep_theirs(
    project: Path,
) -> None:
    params = params_of(LAST)
    finetune(params)
    names = set(load_file(WEIGHTS))
    assert "blocks.6.0.bn1.running_mean" in names
    assert changed(params) == inside(names, *LAST, "classifier")


def test_the_whole_teacher_learns(project: Path) -> None:
    params = params_of("all")
    finetune(params)
    assert changed(params) == set(load_file(WEIGHTS))


class Tokens(nn.Module):
    """As a vision transformer: some parameters are the network's own and in no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(3))
        self.block = nn.Linear(3, 3, bias=False)
        self.classifier = nn.Linear(3, 2, bias=False)


@pytest.mark.parametrize(
    ("layers", "learning"),
    [
        ("head", {"classifier.weight"}),
        (["block"], {"block.weight", "classifier.weight"}),
        ("all", {"token", "block.weight", "classifier.weight"}),
    ],
)
def test_the_classifier_learns_always_and_parameters_outside_all_layers_with_the_whole(
    layers: str | list[str], learning: set[str]
) -> None:
    network = Tokens()
    thaw(network, [network.classifier], layers)
    found = {name for name, one in network.named_parameters() if one.requires_grad}
    assert found == learning


def test_a_network_that_answers_with_a_tuple_while_it_trains_gives_logits() -> None:
    network = torchvision.models.googlenet(weights=None, init_weights=False)
    thaw(network, replace_classifier(network, 10), "all")
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 10)
    assert network.inception5b.branch1.bn.training


def test_the_learning_rate_rises_to_its_peak_and_falls(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def told(optimizer: torch.optim.AdamW, *arguments: Any) -> Any:
        rates.append(optimizer.param_groups[0]["lr"])
        return step(optimizer, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", told)
    finetune(params_of("head", finetune={"steps": 10, "learning_rate": 0.01}))
    assert len(rates) == 10
    peak = rates.index(max(rates))
    assert 0 < peak < 9
    assert rates[peak] == pytest.approx(0.01)
    assert rates == sorted(rates[:peak]) + sorted(rates[peak:], reverse=True)


class Sliced(nn.Conv2d):
    """A 1x1 convolution with a stride of 2, said in another way."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(features[:, :, ::2, ::2], self.weight, self.bias)


def test_a_teacher_of_strided_points_learns_by_true_gradients(project: Path) -> None:
    """Where channels come last torch's are wrong, of a 1x1 convolution of three with a stride."""
    params = params_of("all", finetune={"layers": "all", "steps": 3, "learning_rate": 1e-2})
    compute = choose_compute(params.runtime)
    labelled = read_split(PREPARED_FILE, "labelled")
    lessons = lone_lessons(labelled, params.views, 32, compute.device, 0.0)
    learned, lay = [], []  # pictures so small do not show it on every processor
    for conv in (nn.Conv2d(3, 48, 1, stride=2), Sliced(3, 48, 1)):
        conv.register_forward_pre_hook(lambda _, inputs: lay.append(inputs[0].is_contiguous()))
        classifier = nn.Linear(48, 10)
        for layer in (conv, classifier):
            nn.init.constant_(layer.bias, 0.1)
            nn.init.orthogonal_(layer.weight, generator=torch.Generator().manual_seed(0))
        pooled = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        network = nn.Sequential(conv, *pooled, classifier)
        teacher = Teacher(network, (0.5,) * 3, (0.5,) * 3, "", {}, 32, compute)
        tune(teacher, [classifier], lessons, params.finetune)
        learned.append(conv.weight.detach())
    assert lay == [True] * 3 + [False] * 3
    assert torch.allclose(*learned, atol=1e-4)


def test_a_tuned_teacher_knows_images_that_it_did_not_learn_from(tuned: Path) -> None:
    assert read_json(CARD)["validation"]["accuracy"] > 0.4, "ten classes, so chance is 0.1"


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(project: Path) -> None:
    made = []
    for seed in (0, 0, 1):
        finetune(params_of(LAST, finetune={"seed": seed}))
        made.append(files_under(TEACHER))
    assert made[0] == made[1]
    assert made[0][WEIGHTS.name] != made[2][WEIGHTS.name]


@pytest.mark.parametrize(
    "change", [{"steps": 4}, {"batch_size": 9}, {"learning_rate": 2e-3}, {"weight_decay": 0.5}]
)
def test_nothing_that_params_say_of_tuning_is_without_effect(
    project: Path, change: dict[str, Any]
) -> None:
    made = []
    for finetuned in ({}, change):
        finetune(params_of("head", finetune=finetuned))
        made.append(digest_file(WEIGHTS))
    assert made[0] != made[1]


# Other networks


@pytest.mark.parametrize(
    "name",
    ["alexnet", "vgg11", "squeezenet1_1", "resnet18", "densenet121", "mobilenet_v3_small",
     "convnext_tiny", "vit_b_16", "swin_t"],
)  # fmt: skip
def test_torchvisions_networks_get_the_classifier_that_they_would_have_been_built_with(
    name: str,
) -> None:
    with torch.device("meta"):  # shapes without numbers
        network = torchvision.models.get_model(name, weights=None)
        expected = torchvision.models.get_model(name, weights=None, num_classes=7)
        (classifier,) = replace_classifier(network, 7)
    shapes = [{key: value.shape for key, value in one.state_dict().items()}
              for one in (network, expected)]  # fmt: skip
    assert shapes[0] == shapes[1]
    assert classifier in network.modules()


def test_a_vgg_is_tuned_from_a_state_dict_and_loaded_with_the_tasks_classes(project: Path) -> None:
    torch.manual_seed(0)
    save_file(torchvision.models.vgg11(weights=None).state_dict(), "vgg.safetensors")
    maps = {"module": "features", "grid": 1}
    vgg = {"model": "torchvision:vgg11", "weights": "vgg.safetensors", "input_size": 32,
           "taps": {"middle": maps, "pooled": maps}}  # fmt: skip
    params = params_of(["features.18"], teacher=vgg, finetune={"steps": 2, "batch_size": 2})
    try:
        finetune(params)
        names = set(load_file(WEIGHTS))
        assert changed(params) == inside(names, "features.18", "classifier.6")
        assert answers_of_the_dumped(params).shape == (1, 10)
    finally:  # half a gigabyte each
        for path in project.rglob("*.safetensors"):
            path.unlink()


def answers_of_the_dumped(params: Params) -> torch.Tensor:
    """The logits of the teacher that a dump would ask, for one black picture."""
    found = find_tuned(params, read_split(PREPARED_FILE, "labelled"))
    teacher = load_teacher(params.teacher, choose_compute(params.runtime), found)
    size = params.teacher.input_size
    return teacher.answer(torch.zeros(1, 3, size, size, dtype=torch.uint8)).logits


# What is not tuned


def test_without_layers_only_the_card_is_written_and_torch_is_not_loaded(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pipeline.params import load_params\n"
        "from pipeline.stages.finetune import finetune\nfinetune(load_params())\n"
        "print([name for name in ('torch', 'timm', 'sklearn') if name in sys.modules])"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        params_of("none")
    done = shell(sys.executable, "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
    written = files_under(tmp_path / TEACHER)
    assert list(written) == [CARD.name]
    assert read_json(tmp_path / CARD) == {"origin": {"layers": "none"}}


def test_without_layers_the_dump_asks_the_teacher_as_it_was(tuned: Path) -> None:
    """Whether nothing was ever tuned, or a tuned teacher lies there still."""
    params = params_of("none")
    assert answers_of_the_dumped(params).shape == (1, 1000)
    for path in files_under(TEACHER):
        (TEACHER / path).unlink()
    TEACHER.rmdir()
    assert answers_of_the_dumped(params).shape == (1, 1000)


# The dump, the head and the students


def test_the_dump_asks_the_tuned_teacher(tuned: Path) -> None:
    spec = read_json(SPEC)
    assert spec["teacher"]["weights_sha256"] == digest_file(WEIGHTS)
    assert spec["kinds"]["logits"]["shape"] == [10]
    before = Kind(Path("data/cache/labelled/features/pooled"))
    dump(params_of("none"))
    untuned = Kind(before.folder)
    assert untuned.fingerprint != before.fingerprint
    assert read_json(SPEC)["kinds"]["logits"]["shape"] == [1000]


def test_an_estimate_counts_the_tuned_teachers_logits(tuned: Path) -> None:
    done = mentee("cache", "estimate")
    assert done.exit_code == 0, done.output
    assert re.search(r"logits +24 bytes a view", done.output), "ten in float16, and a checksum"


def test_without_a_head_students_learn_from_the_tuned_teachers_own_logits(tuned: Path) -> None:
    params_of(LAST, finetune=LEARNT, head={"fit": False})
    scores = read_json(CARD)["validation"]
    for command in (("head",), ("evaluate", "teacher"), ("train", "obedient")):
        done = mentee(*command)
        assert done.exit_code == 0, done.output
    logits = Kind(Path("data/cache/labelled/logits"))
    own = Kind(Path("data/cache/labelled/task_logits"))
    assert (own.view(2) == logits.view(2)).all()
    # The same answers, but for the rounding of another batch and of float16.
    found = read_json(Path("metrics/head.json"))["validation"]
    assert found["nll"] == pytest.approx(scores["nll"], rel=0.05)
    assert Path("students/obedient-plain-0/student.safetensors").is_file()


def test_a_head_may_be_fitted_on_tuned_features(tuned: Path) -> None:
    done = mentee("head")
    assert done.exit_code == 0, done.output
    assert read_json(Path("metrics/head.json"))["validation"]["accuracy"] > 0.4
    assert mentee("train", "obedient").exit_code == 0


def test_a_teacher_of_other_classes_is_told_both_ways_out(project: Path) -> None:
    dump(params_of("none", head={"fit": False}))
    done = mentee("head")
    assert done.exit_code == 1
    assert "speaks 1000 classes, the task has 10: set head.fit to true" in done.stderr
    assert "finetune.layers" in done.stderr


# What is refused


def complaint(*command: str) -> str:
    """The one line in which a command is refused, which changes nothing on disk."""
    before = files_under(Path())
    done = mentee(*command)
    assert done.exit_code == 1, done.output
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert files_under(Path()) == before
    return done.stderr


def test_a_path_that_the_teacher_has_not_is_told_those_that_there_are(project: Path) -> None:
    params_of(["blocks.6", "blocks.7"])
    text = complaint("finetune")
    assert "finetune.layers: no module 'blocks.7' in the network; near are blocks." in text
    assert " blocks.6, " in text


@pytest.mark.parametrize("command", [("dump",), ("cache", "estimate")])
def test_a_teacher_that_is_to_be_tuned_must_have_been(
    project: Path, command: tuple[str, ...]
) -> None:
    params_of("head")
    assert "data/teacher holds no teacher that was tuned as params say" in complaint(*command)
    finetune(params_of("none"))
    params_of("head")
    assert "run `mentee finetune`" in complaint(*command)


def damage_weights() -> None:
    content = bytearray(WEIGHTS.read_bytes())
    content[-1] ^= 1
    WEIGHTS.write_bytes(content)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda: params_of(LAST, finetune={**LEARNT, "steps": 41}),
        lambda: params_of(LAST, finetune=LEARNT, teacher={"input_size": 96}),
        lambda: params_of(LAST, finetune=LEARNT, views={"seed": 1}),
        lambda: prepare(params_of(LAST, finetune=LEARNT, data={"seed": 1})),
        lambda: WEIGHTS.unlink(),
        lambda: CARD.write_text("[]"),
        lambda: CARD.write_text("{"),
        lambda: write_json(CARD, {"origin": read_json(CARD)["origin"]}),
        damage_weights,
    ],
    ids=["steps", "pixels", "views", "images", "no weights", "no card", "half a card",
         "no digest", "damaged"],
)  # fmt: skip
def test_a_teacher_that_was_tuned_otherwise_or_is_damaged_is_refused(
    tuned: Path, spoil: Callable[[], Any]
) -> None:
    spoil()
    assert "data/teacher holds no teacher that was tuned as params say" in complaint("dump")


@pytest.mark.parametrize(
    ("block", "change", "decides"),
    [
        ("teacher", {"model": "timm:tf_efficientnet_lite1"}, True),
        ("teacher", {"weights": "mine.safetensors"}, True),
        ("teacher", {"mean": [0.4, 0.4, 0.4]}, True),
        ("teacher", {"std": [0.2, 0.2, 0.2]}, True),
        ("teacher", {"taps": {"early": {"module": "blocks.2", "grid": 1}}}, False),
        ("views", {"labelled": 4}, True),
        ("views", {"unlabelled": 4}, False),
        ("training", {"steps": 9}, False),
    ],
)
def test_a_teacher_is_tuned_anew_for_what_decides_it_and_for_nothing_else(
    project: Path, block: str, change: dict[str, Any], decides: bool
) -> None:
    labelled = read_split(PREPARED_FILE, "labelled")
    before = origin(params_of(LAST), labelled)
    after = origin(params_of(LAST, **{block: change}), labelled)
    assert (before != after) == decides


def spoilt_teacher(key: str) -> dict[str, Any]:
    """A teacher one of whose numbers is none."""
    state = {name: value.contiguous() for name, value in state_before(params_of("none")).items()}
    state[key].flatten()[0] = float("nan")
    save_file(state, "spoilt.safetensors")
    return {"weights": "spoilt.safetensors"}


def test_a_loss_that_is_not_finite_stops_with_the_step_and_writes_nothing(project: Path) -> None:
    params = params_of("all", teacher=spoilt_teacher("conv_stem.weight"))
    assert "step 1: the teacher's loss is not finite" in refusal(lambda: finetune(params))
    assert not TEACHER.exists()


def test_a_teacher_that_answers_with_no_numbers_after_the_last_step_is_not_kept(
    project: Path,
) -> None:
    """In training it goes by the batch's statistics, afterwards by its own."""
    params = params_of("all", teacher=spoilt_teacher("bn2.running_mean"))
    assert "logits are not finite" in refusal(lambda: finetune(params))
    assert not TEACHER.exists()


def test_a_run_that_is_killed_leaves_nothing_and_the_next_one_is_whole(project: Path) -> None:
    params_of("head", finetune={"steps": 100000})
    process = subprocess.Popen(["mentee", "finetune"], text=True, stdout=subprocess.PIPE)
    assert process.stdout
    for line in process.stdout:
        if line.startswith("fine-tuning: "):
            break
    process.kill()
    assert process.wait() < 0, "it was in the middle"
    assert [path.name for path in Path("data").iterdir()] == ["prepared"]
    Path("data/.teacher.partial").mkdir()  # of one that was killed while it wrote
    finetune(params_of("head"))
    assert {path.name for path in Path("data").iterdir()} == {"prepared", "teacher"}

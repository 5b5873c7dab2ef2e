"""params.yaml at the door: what loads, what a mistake is told, and the students it asks for."""

from copy import deepcopy
from pathlib import Path
from typing import Any, get_args

import pytest
from projects import REPOSITORY
from pydantic import ValidationError
from ruamel.yaml import YAML

from pipeline.blocks import ChannelDistance, OtherDistance
from pipeline.errors import MenteeError
from pipeline.params import Params, load_params
from pipeline.variants import Variant

DEFAULTS = REPOSITORY / "params.yaml"
CONTENT = YAML(typ="safe", pure=True).load(DEFAULTS)
ABSENT = object()


def params_file(folder: Path, changes: dict[str, Any]) -> Path:
    """The repository's params.yaml with some keys, dots between their parts, set or left out."""
    content = deepcopy(CONTENT)
    for key, value in changes.items():
        *parents, last = key.split(".")
        block = content
        for parent in parents:
            block = block[int(parent) if parent.isdigit() else parent]
        if value is ABSENT:
            del block[last]
        else:
            block[last] = value
    path = folder / "params.yaml"
    yaml = YAML(typ="safe", pure=True)
    yaml.sort_base_mapping_type_on_output = False
    yaml.dump(content, path)
    return path


def complaint(folder: Path, changes: dict[str, Any]) -> str:
    """What the user is told about these changes: one line that starts with the file's name."""
    path = params_file(folder, changes)
    with pytest.raises(MenteeError) as caught:
        load_params(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert len(text.splitlines()) == 1
    return text.removeprefix(f"{path}: ")


def test_the_default_params_load() -> None:
    params = load_params(DEFAULTS)
    assert params.head.tap in params.teacher.taps
    assert {"independent", "adamant", "obedient", "gullible"} <= set(params.modes)
    assert params.variants()


def test_params_cannot_be_changed_once_loaded() -> None:
    params = load_params(DEFAULTS)
    for block, key in (
        (params, "data"),
        (params.data, "seed"),
        (params.modes["obedient"], "alpha"),
        (params.teacher.taps[params.head.tap], "grid"),
    ):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(block, key, 1)


def test_a_number_may_be_spelled_4e_minus_3(tmp_path: Path) -> None:
    """YAML 1.1, which is not what DVC reads, would take it for a text."""
    path = params_file(tmp_path, {"training.learning_rate": 0.125})
    text = path.read_text()
    assert "learning_rate: 0.125" in text
    path.write_text(text.replace("learning_rate: 0.125", "learning_rate: 4e-3"))
    assert load_params(path).training.learning_rate == 0.004


def test_a_whole_number_may_stand_for_a_real_one(tmp_path: Path) -> None:
    path = params_file(tmp_path, {"soft_targets.temperature": 4, "modes.own": constant_mode(1)})
    params = load_params(path)
    assert params.soft_targets.temperature == 4.0
    assert params.modes["own"].alpha == [(0.0, 1.0)]


def constant_mode(alpha: float = 0, beta: float = 0, gamma: float = 0) -> dict[str, Any]:
    return {"alpha": [[0, alpha]], "beta": [[0, beta]], "gamma": [[0, gamma]]}


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("epochs", ["data", "views", "teacher", "training", "runtime"]),
        ("training.epochs", ["steps", "batch_size", "validations"]),
        ("modes.adamant.delta", ["alpha", "beta", "gamma"]),
        ("teacher.taps.pooled.size", ["module", "grid", "keep"]),
        ("probes.0.layer", ["teacher", "student", "distance", "match"]),
        ("settings.dropout.rate", ["dropout", "unlabelled"]),
        ("sweep.labels.seeds", ["modes", "settings"]),
    ],
)
def test_an_unknown_key_is_told_the_keys_that_are_known_there(
    key: str, allowed: list[str], tmp_path: Path
) -> None:
    text = complaint(tmp_path, {key: 1})
    start = f"{key}: unknown key; allowed here: "
    assert text.startswith(start)
    assert set(allowed) <= set(text.removeprefix(start).split(", "))


@pytest.mark.parametrize(
    "key", ["runtime", "training.steps", "modes.obedient.beta", "teacher.taps.pooled.grid"]
)
def test_a_missing_key_is_named(key: str, tmp_path: Path) -> None:
    assert complaint(tmp_path, {key: ABSENT}) == f"{key}: this key is missing"


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("training.steps", "many", "valid integer"),
        ("training.steps", True, "valid integer"),
        ("training.steps", 10.5, "valid integer"),
        ("training.learning_rate", "0.5", "valid number"),
        ("training.learning_rate", True, "valid number"),
        ("views.flip", 1, "valid boolean"),
        ("views.flip", "yes", "valid boolean"),
        ("teacher.weights", 5, "valid string"),
        ("sweep.seeds", 3, "valid list"),
        ("modes.obedient", "strict", "valid dictionary"),
    ],
)
def test_a_value_of_another_type_is_not_converted(
    key: str, value: Any, allowed: str, tmp_path: Path
) -> None:
    text = complaint(tmp_path, {key: value})
    assert text.startswith(f"{key}: {value!r} is not allowed: ")
    assert allowed in text


@pytest.mark.parametrize("wrong", ["1", True])
def test_a_knot_holds_numbers_only(wrong: Any, tmp_path: Path) -> None:
    text = complaint(tmp_path, {"modes.obedient.beta": [[0, wrong]]})
    assert text.startswith(f"modes.obedient.beta.0.1: {wrong!r} is not allowed: ")
    assert "valid number" in text


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("data.image_size", 4, "greater than or equal to 8"),
        ("data.test", 0, "greater than or equal to 1"),
        ("data.seed", -1, "greater than or equal to 0"),
        ("data.seed", 2**32, f"less than {2**32}"),
        ("data.source", "imagenet", "cifar10|digits|torchvision:"),
        ("views.labelled", 0, "greater than or equal to 1"),
        ("views.padding", -1, "greater than or equal to 0"),
        ("cache.features", "bfloat16", "'float16', 'float32', 'uint8' or 'uint4'"),
        ("cache.logits", "top0", "float16|float32|uint8|top[1-9]"),
        ("soft_targets.distance", "l2", "'kl', 'kl_by_certainty', 'rmse', 'dkd' or 'dist'"),
        ("soft_targets.temperature", 0, "greater than 0"),
        ("soft_targets.temperature", float("nan"), "a finite number"),
        ("probes.0.match", "pooling", "'projection', 'first_channels', 'random_projection' or"),
        ("probes.0.distance", "kl", "'rmse', 'mse', 'l1', 'cosine', 'vid', 'attention_transfer'"),
        ("student.width", 7, "multiple of 2"),
        ("student.depth", 2, "greater than or equal to 3"),
        ("student.model", "sixconv", "fiveconv|resnet"),
        ("student.model", "resnet20x2", "fiveconv|resnet"),
        ("student.model", "wrn_16", "fiveconv|resnet"),
        ("student.model", "wrn_16_0", "fiveconv|resnet"),
        ("student.model", "timm:resnet18.a1_in1k", "(torchvision|timm):"),
        ("training.learning_rate", 0, "greater than 0"),
        ("training.learning_rate", 11, "less than or equal to 10"),
        ("training.warmup", 1, "less than 1"),
        ("training.steps", 10**10, "less than or equal to 1000000000"),
        ("training.batch_size", 10**6, "less than or equal to 131072"),
        ("finetune.steps", 10**19, "less than or equal to 1000000000"),
        ("finetune.batch_size", 10**19, "less than or equal to 131072"),
        ("examine.retrain_steps", 10**19, "less than or equal to 1000000000"),
        ("stability.steps", 10**19, "less than or equal to 1000000000"),
        ("runtime.threads", 10**9, "less than or equal to 4096"),
        ("settings.dropout.dropout", 1, "less than 1"),
        ("teacher.taps", {}, "at least 1"),
        ("teacher.taps.middle.keep", "maps", "'channels' or 'attention'"),
        ("runtime.device", "gpu", "auto|cpu|cuda"),
    ],
)
def test_a_value_out_of_range_is_told_the_range(
    key: str, value: Any, allowed: str, tmp_path: Path
) -> None:
    text = complaint(tmp_path, {key: value})
    assert text.startswith(f"{key}: {value!r} is not allowed: ")
    assert allowed in text


@pytest.mark.parametrize(
    "model",
    ["fiveconv", "resnet8x4", "resnet20", "resnet32x4", "resnet56", "wrn_16_2", "wrn_40_1",
     "wrn_28_10", "torchvision:resnet18", "timm:vit_tiny_patch16_224"],
)  # fmt: skip
def test_a_student_may_be_of_any_kind(model: str, tmp_path: Path) -> None:
    load_params(params_file(tmp_path, {"student.model": model}))


@pytest.mark.parametrize(
    ("model", "allowed"),
    [
        ("resnet18", "6n + 2, like 14 or 20"),
        ("resnet33x4", "6n + 2, like 32 or 38"),
        ("resnet2", "6n + 2, like 8 or 14"),
        ("wrn_28_2", None),
        ("wrn_20_2", "6n + 4, like 16 or 22"),
        ("wrn_4_1", "6n + 4, like 10 or 16"),
        ("torchvision:resnet18", None),
    ],
)
def test_a_residual_network_has_a_depth_of_whole_blocks(
    model: str, allowed: str | None, tmp_path: Path
) -> None:
    changes = {"student.model": model}
    if allowed is None:
        load_params(params_file(tmp_path, changes))
        return
    text = complaint(tmp_path, changes)
    assert text == f"student.model: {model!r} is not allowed: its depth must be {allowed}"


def test_params_without_a_depth_are_for_five_convolutions(tmp_path: Path) -> None:
    assert load_params(params_file(tmp_path, {"student.depth": ABSENT})).student.depth == 5


@pytest.mark.parametrize("distance", get_args(ChannelDistance))
def test_a_distance_between_channels_needs_a_match(distance: str, tmp_path: Path) -> None:
    probe = {"teacher": "pooled", "student": "pooled", "distance": distance}
    for match in ("projection", "first_channels", "random_projection"):
        load_params(params_file(tmp_path, {"probes": [{**probe, "match": match}]}))
    text = complaint(tmp_path, {"probes": [{**probe, "match": "none"}]})
    assert text == (
        f"probes.0: {distance} compares channels: set match to projection, first_channels or "
        f"random_projection"
    )


@pytest.mark.parametrize("distance", get_args(OtherDistance))
def test_a_distance_between_places_or_samples_takes_no_match(distance: str, tmp_path: Path) -> None:
    probe = {"teacher": "middle", "student": "conv4", "distance": distance}
    load_params(params_file(tmp_path, {"probes": [{**probe, "match": "none"}]}))
    text = complaint(tmp_path, {"probes": [{**probe, "match": "projection"}]})
    assert text == f"probes.0: {distance} compares no channels: set match to none"


def test_a_probe_that_names_no_distance_has_the_papers(tmp_path: Path) -> None:
    probe = {"teacher": "pooled", "student": "pooled", "match": "projection"}
    params = load_params(params_file(tmp_path, {"probes": [probe]}))
    assert params.probes[0].distance == "rmse"


def test_params_that_do_not_speak_of_tuning_tune_nothing(tmp_path: Path) -> None:
    """Those of older projects, and of teams that have no teacher."""
    path = params_file(tmp_path, {"finetune": ABSENT})
    assert load_params(path).finetune == load_params(DEFAULTS).finetune
    assert load_params(path).finetune.layers == "none"


@pytest.mark.parametrize("value", ["none", "head", "all", ["blocks.6", "bn2"]])
def test_what_is_tuned_is_a_word_or_a_list_of_modules(value: Any, tmp_path: Path) -> None:
    assert load_params(params_file(tmp_path, {"finetune.layers": value})).finetune.layers == value


@pytest.mark.parametrize("value", ["blocks.6", [], [6], 1, None, {"blocks": 6}])
def test_anything_else_to_tune_is_told_what_there_is(value: Any, tmp_path: Path) -> None:
    text = complaint(tmp_path, {"finetune.layers": value})
    assert text == (
        f"finetune.layers: {value!r} is not allowed: take none, head, all or a list of the "
        f"teacher's module paths"
    )


def test_a_shift_that_leaves_no_edge_to_reflect_is_out_of_range(tmp_path: Path) -> None:
    """An image of 32 pixels has 31 beyond each edge to show in its mirror."""
    load_params(params_file(tmp_path, {"data.image_size": 32, "views.padding": 31}))
    text = complaint(tmp_path, {"data.image_size": 32, "views.padding": 32})
    assert "views.padding" in text
    assert "32" in text


@pytest.mark.parametrize(
    ("knots", "where", "value"),
    [
        ([[1.5, 1]], "0.0", 1.5),
        ([[-0.5, 1]], "0.0", -0.5),
        ([[0, 1], [1, -2]], "1.1", -2),
        ([[0, float("inf")]], "0.1", float("inf")),
        ([[float("nan"), 1]], "0.0", float("nan")),
    ],
)
def test_a_knot_lies_within_training_and_its_weight_is_not_negative(
    knots: list[list[float]], where: str, value: float, tmp_path: Path
) -> None:
    text = complaint(tmp_path, {"modes.adamant.alpha": knots})
    assert text.startswith(f"modes.adamant.alpha.{where}: {value!r} is not allowed: ")


@pytest.mark.parametrize("knots", [[[0, 1], [0.5, 1], [0.4, 1]], [[0, 1], [0, 2]]])
def test_knots_out_of_order_are_refused_with_their_times(
    knots: list[list[float]], tmp_path: Path
) -> None:
    text = complaint(tmp_path, {"modes.adamant.gamma": knots})
    times = [float(t) for t, _ in knots]
    assert text == f"modes.adamant: the knots of gamma must have increasing times, not {times}"


def test_a_mode_without_any_weight_is_refused(tmp_path: Path) -> None:
    text = complaint(tmp_path, {"modes.idle": constant_mode()})
    assert text.startswith("modes.idle: alpha, beta and gamma are all 0 at t = 0: ")


@pytest.mark.parametrize(
    ("alpha", "beta", "t"),
    [
        ([[0, 0], [0.2, 1]], [[0, 0]], "0"),
        ([[0, 1], [1, 0]], [[0, 0]], "1"),
        ([[0, 1], [0.5, 0]], [[0.5, 0], [1, 1]], "0.5"),
    ],
    ids=["rises from 0", "falls to 0", "two that meet at 0"],
)
def test_a_mode_that_is_silent_for_one_moment_is_refused(
    alpha: list, beta: list, t: str, tmp_path: Path
) -> None:
    mode = {"alpha": alpha, "beta": beta, "gamma": [[0, 0]]}
    text = complaint(tmp_path, {"modes.idle": mode})
    assert text.startswith(f"modes.idle: alpha, beta and gamma are all 0 at t = {t}: ")


def test_a_mode_in_which_one_term_follows_on_another_is_taken(tmp_path: Path) -> None:
    mode = {"alpha": [[0.4, 0], [1, 1]], "beta": [[0, 1], [0.5, 0]], "gamma": [[0, 0]]}
    assert load_params(params_file(tmp_path, {"modes.own": mode})).modes["own"].reads_features


@pytest.mark.parametrize(
    ("key", "name", "start", "known"),
    [
        ("head.tap", "early", "head.tap: 'early' is not one of ", "teacher.taps"),
        ("probes.0.teacher", "early", "probes.teacher: 'early' is not one of ", "teacher.taps"),
        ("sweep.labels.modes", ["meek"], "sweep.labels.modes: 'meek' is not one of ", "modes"),
        (
            "sweep.features.settings", ["odd"],
            "sweep.features.settings: 'odd' is not one of ", "settings",
        ),
    ],
)  # fmt: skip
def test_a_name_that_is_not_there_is_told_those_that_are(
    key: str, name: Any, start: str, known: str, tmp_path: Path
) -> None:
    there = CONTENT
    for part in known.split("."):
        there = there[part]
    assert complaint(tmp_path, {key: name}) == start + ", ".join(there)


ATTENTION = {"module": "blocks.4", "grid": 4, "keep": "attention"}


@pytest.mark.parametrize("distance", get_args(ChannelDistance) + get_args(OtherDistance))
def test_a_tap_that_keeps_attention_serves_attention_transfer_alone(
    distance: str, tmp_path: Path
) -> None:
    match = "projection" if distance in get_args(ChannelDistance) else "none"
    probe = {"teacher": "middle", "student": "conv4", "distance": distance, "match": match}
    changes = {"teacher.taps.middle": ATTENTION, "probes": [probe]}
    if distance == "attention_transfer":
        assert load_params(params_file(tmp_path, changes)).teacher.taps["middle"].keep
        return
    text = complaint(tmp_path, changes)
    assert text.startswith(
        f"probes: {distance} compares what the teacher saw, the tap middle keeps"
    )
    assert "set its keep to channels under teacher.taps, or distance to attention_transfer" in text


@pytest.mark.parametrize("tap", [ATTENTION, {"module": "blocks.4", "grid": 4}])
def test_a_head_reads_no_maps(tap: dict[str, Any], tmp_path: Path) -> None:
    changes = {"teacher.taps.middle": tap, "head.tap": "middle"}
    assert complaint(tmp_path, changes) == (
        "head.tap: 'middle' holds maps, a head reads one value a channel: name a tap with grid 1"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("teacher.std", [float("inf"), 1.0, 1.0]),
        ("teacher.mean", [0.5, float("nan"), 0.5]),
        ("head.temperatures", [float("inf")]),
        ("head.inverse_regularisation", [float("inf")]),
        ("training.gradient_clip", float("inf")),
    ],
)
def test_what_is_no_number_is_refused(key: str, value: Any, tmp_path: Path) -> None:
    text = complaint(tmp_path, {key: value})
    assert text.startswith(key)
    assert "finite number" in text


def test_a_learning_rate_that_names_a_file_is_spelled_with_a_point(tmp_path: Path) -> None:
    """DVC would look for independent-1-5-0.json, where independent-1.0-5-0.json is written."""
    text = complaint(tmp_path, {"stability.learning_rates": [0.1, 1]})
    assert text == "stability.learning_rates.1: 1 is not allowed: write 1.0"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"stability.modes": ["independent"], "stability.steps": 3}, "stability.steps: warmup"),
        ({"examine.retrain_after": ["conv1"], "examine.retrain_steps": 3},
         "examine.retrain_steps: warmup"),
        ({"stability.modes": ["obedient"], "probes": [],
          "sweep.features": {"modes": [], "settings": []},
          "sweep.unlabelled": {"modes": [], "settings": []}},
         "stability.modes: obedient's beta is above 0 but no probe"),
        ({"stability.modes": ["independent"], "stability.depths": [5, 7],
          "student.model": "resnet8x4"},
         "stability.depths: resnet8x4 has a depth of its own: set it to [5]"),
        ({"efficiency.labels": [5], "head.fit": False}, "efficiency.labels: students with fewer"),
        ({"efficiency.labels": [5], "finetune.layers": "head"}, "efficiency.labels: students with"),
    ],
)  # fmt: skip
def test_evidence_that_cannot_be_had_is_refused_before_any_work(
    changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    assert complaint(tmp_path, changes).startswith(told)


def test_lone_students_may_have_fewer_labels_than_a_tuned_teacher(tmp_path: Path) -> None:
    student = only_student("labels", constant_mode(alpha=1), {})
    changes = {**student, "efficiency.labels": [5], "finetune.layers": "head"}
    assert load_params(params_file(tmp_path, changes)).efficiency.labels == [5]


@pytest.mark.parametrize(("key", "value"), [("posterior", "laplace"), ("self_training", 10)])
def test_what_only_a_fitted_head_has_is_not_asked_of_the_teachers_own(
    key: str, value: Any, tmp_path: Path
) -> None:
    text = complaint(tmp_path, {"head.fit": False, f"head.{key}": value})
    assert text.startswith(f"head.{key}: {value} needs a head that is fitted: set head.fit to true")
    params = load_params(params_file(tmp_path, {"head.fit": False}))
    assert not params.head.fit


def test_attention_to_a_single_place_is_not_kept(tmp_path: Path) -> None:
    text = complaint(tmp_path, {"teacher.taps.middle": {**ATTENTION, "grid": 1}})
    assert text.startswith("teacher.taps.middle: keep: attention says where a teacher looks")
    assert "set grid above 1" in text


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_pictures_that_no_teacher_saw_are_for_lone_students(name: str, tmp_path: Path) -> None:
    lone = only_student("labels", constant_mode(alpha=1), {name: 0.2})
    load_params(params_file(tmp_path, lone))
    taught = only_student("logits", constant_mode(alpha=1, gamma=1), {name: 0.2})
    text = complaint(tmp_path, taught)
    assert text.startswith("sweep.logits: own listens to a teacher, and own mixes pictures")


@pytest.mark.parametrize(
    ("share", "wrong"),
    [
        (1, "settings.own: unlabelled: 1 is not allowed: a share of a batch is less than 1"),
        ([[0, 0.5], [1, 1]], "settings.own: unlabelled: 1 is not allowed"),
        ([[0.5, 0.5], [0, 0]], "settings.own: the knots of unlabelled must have increasing times"),
        ([], "settings.own.unlabelled: [] is not allowed"),
        ("half", "settings.own.unlabelled: 'half' is not allowed"),
        (-0.5, "settings.own.unlabelled.0.1: -0.5 is not allowed"),
    ],
)
def test_the_unlabelled_share_is_a_number_or_knots_below_1(
    share: Any, wrong: str, tmp_path: Path
) -> None:
    student = only_student("unlabelled", constant_mode(gamma=1), {"unlabelled": share})
    assert complaint(tmp_path, student).startswith(wrong)


def test_settings_whose_unlabelled_share_is_0_throughout_read_no_unlabelled_images(
    tmp_path: Path,
) -> None:
    student = only_student("logits", constant_mode(gamma=1), {"unlabelled": [[0, 0], [1, 0]]})
    load_params(params_file(tmp_path, student))


@pytest.mark.parametrize(("steps", "warmup"), [(4, 0.25), (2, 0.5), (10, 0.95), (100, 0.01)])
def test_a_cycle_needs_steps_on_both_sides_of_its_peak(
    steps: int, warmup: float, tmp_path: Path
) -> None:
    changes = {"training.steps": steps, "training.warmup": warmup}
    assert "leaves no step to rise or none to fall" in complaint(tmp_path, changes)
    load_params(params_file(tmp_path, {**changes, "training.schedule": "cosine"}))


@pytest.mark.parametrize("name", ["Loud", "two words", "a-b", "1st"])
def test_a_mode_needs_a_name_that_can_be_a_file(name: str, tmp_path: Path) -> None:
    text = complaint(tmp_path, {f"modes.{name}": constant_mode(1)})
    assert f"{name!r} is not allowed" in text
    assert "^[a-z][a-z0-9_]*$" in text


def test_no_mode_may_take_the_teachers_name(tmp_path: Path) -> None:
    text = complaint(tmp_path, {"modes.teacher": constant_mode(1)})
    assert text.startswith("modes.teacher: ")


@pytest.mark.parametrize(
    ("listed", "mode", "setting", "right"),
    [
        ("labels", constant_mode(alpha=1, beta=1), {}, "features"),
        ("labels", constant_mode(alpha=1, gamma=1), {}, "logits"),
        ("logits", constant_mode(beta=1, gamma=1), {}, "features"),
        ("features", constant_mode(alpha=1), {}, "labels"),
        ("features", constant_mode(beta=1), {"unlabelled": 0.5}, "unlabelled"),
        ("unlabelled", constant_mode(beta=1), {}, "features"),
    ],
)
def test_a_student_in_the_wrong_group_is_told_the_right_one(
    listed: str, mode: dict[str, Any], setting: dict[str, Any], right: str, tmp_path: Path
) -> None:
    """DVC re-runs a group by what it reads, so a student in another would go stale."""
    group = {"modes": ["own"], "settings": ["with_own"]}
    changes = {"modes.own": mode, "settings.with_own": setting}
    text = complaint(tmp_path, {**changes, f"sweep.{listed}": group})
    assert text.startswith(f"sweep.{listed}: own with with_own belongs under sweep.{right}: ")
    empty = {"modes": [], "settings": []}
    moved = {f"sweep.{listed}": empty, f"sweep.{right}": group}
    assert "own-with_own-0" in names(load_params(params_file(tmp_path, {**changes, **moved})))


def names(params: Params) -> list[str]:
    return [variant.name for variant in params.variants()]


def only_student(group: str, mode: dict[str, Any], setting: dict[str, Any]) -> dict[str, Any]:
    """Changes that leave one student in the sweep: of the mode `own`, with the settings `own`."""
    groups = ("labels", "logits", "features", "unlabelled")
    sweep = {f"sweep.{name}": {"modes": [], "settings": []} for name in groups}
    sweep[f"sweep.{group}"] = {"modes": ["own"], "settings": ["own"]}
    return {"modes.own": mode, "settings.own": setting, **sweep}


def test_unlabelled_images_need_a_mode_with_a_teacher(tmp_path: Path) -> None:
    student = only_student("unlabelled", constant_mode(alpha=1), {"unlabelled": 0.5})
    text = complaint(tmp_path, {"data.unlabelled": 10, **student})
    assert text.startswith("sweep.unlabelled: own has no teacher term to learn from")


def test_labels_that_no_term_reads_are_not_smoothed(tmp_path: Path) -> None:
    text = complaint(tmp_path, {"sweep.features.settings": ["plain", "smoothing"]})
    assert text == (
        "sweep.features: gullible reads no labels that smoothing could smooth: its alpha is 0"
    )


def test_settings_with_unlabelled_need_unlabelled_images(tmp_path: Path) -> None:
    student = only_student("unlabelled", constant_mode(gamma=1), {"unlabelled": 0.5})
    text = complaint(tmp_path, {"data.unlabelled": 0, **student})
    assert text == ("sweep.unlabelled: settings.own.unlabelled is above 0 but data.unlabelled is 0")
    load_params(params_file(tmp_path, {"data.unlabelled": 1, **student}))


def test_a_mode_with_beta_needs_a_probe(tmp_path: Path) -> None:
    student = only_student("features", constant_mode(beta=1), {})
    text = complaint(tmp_path, {"probes": [], **student})
    assert text == "sweep.features: modes.own.beta is above 0 but probes is empty"
    without = only_student("logits", constant_mode(gamma=1), {})
    load_params(params_file(tmp_path, {"probes": [], **without}))


def test_of_several_mistakes_the_first_is_told_and_the_others_counted(tmp_path: Path) -> None:
    text = complaint(tmp_path, {"data.validation": 0, "training.steps": "many", "odd": 1})
    assert text.startswith("data.validation: 0 is not allowed: ")
    assert text.endswith("(and 2 more)")


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    with pytest.raises(MenteeError) as caught:
        load_params(path)
    assert str(caught.value).startswith(f"{path} is not here")


@pytest.mark.parametrize(
    "content",
    [b"data: {seed: 1", b"a: 1\na: 2\n", b"\x00", b"\xff\xfe\xfa", b"source: 2026-13-01\n"],
)
def test_invalid_yaml_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(MenteeError) as caught:
        load_params(path)
    assert str(caught.value).startswith(f"{path} is not valid YAML: ")
    assert len(str(caught.value).splitlines()) == 1


def test_of_a_key_that_stands_twice_the_line_is_told_and_not_how_to_allow_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("data:\n  seed: 1\n  seed: 2\n")
    with pytest.raises(MenteeError) as caught:
        load_params(path)
    text = str(caught.value)
    assert text.startswith(f"{path} is not valid YAML: line 3: ")
    assert text.endswith('found duplicate key "seed" with value "2" (original value: "1")')


@pytest.mark.parametrize("content", ["", "- data\n", "data\n"])
def test_a_file_without_keys_is_refused_in_a_whole_sentence(content: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(content)
    with pytest.raises(MenteeError) as caught:
        load_params(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert ": :" not in str(caught.value), "there is no key to name"


def test_variants_are_every_mode_with_every_settings_and_seed_in_the_order_listed(
    tmp_path: Path,
) -> None:
    path = params_file(
        tmp_path,
        {
            "modes.soft": constant_mode(gamma=1),
            "sweep.seeds": [3, 1],
            "sweep.labels": {"modes": ["independent"], "settings": ["plain", "dropout"]},
            "sweep.logits": {"modes": ["soft"], "settings": ["plain"]},
            "sweep.features": {"modes": ["obedient", "adamant"], "settings": ["plain"]},
            "sweep.unlabelled": {"modes": ["obedient"], "settings": ["unlabelled"]},
        },
    )
    assert names(load_params(path)) == [
        "independent-plain-3",
        "independent-plain-1",
        "independent-dropout-3",
        "independent-dropout-1",
        "soft-plain-3",
        "soft-plain-1",
        "obedient-plain-3",
        "obedient-plain-1",
        "adamant-plain-3",
        "adamant-plain-1",
        "obedient-unlabelled-3",
        "obedient-unlabelled-1",
    ]


def test_a_title_leaves_out_what_goes_without_saying() -> None:
    assert Variant("obedient", "plain", 7).title == "obedient"
    assert Variant("obedient", "dropout", 7).title == "obedient + dropout"
    assert Variant("obedient", "dropout", 7).name == "obedient-dropout-7"

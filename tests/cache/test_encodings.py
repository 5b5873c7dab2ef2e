"""How answers are stored: what comes back, how far off it is, and what that costs."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from caches import answers, cache_spec, make_cache
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from pipeline.cache import schema
from pipeline.cache.encodings import (
    PACKED,
    PER_CHANNEL,
    PER_ROW,
    Encoding,
    TopK,
    encoding_of,
    features_encoding,
    logits_encoding,
)
from pipeline.cache.reader import Kind

LARGEST = float(np.finfo("<f4").max) / 4  # a range that float32 can still express
SHAPES = arrays_of.array_shapes(min_dims=2, max_dims=4, max_side=6)
SCALED = [PER_ROW, PER_CHANNEL, PACKED]
NAMES = ["float16", "float32", *SCALED]


def floats(largest: float) -> st.SearchStrategy[float]:
    return st.floats(-largest, largest, width=32)


def rows_of(largest: float = LARGEST) -> st.SearchStrategy[np.ndarray]:
    """Some rows of pooled or spatial answers: any numbers, huge, tiny and equal ones among them."""
    return arrays_of.arrays("<f4", SHAPES, elements=floats(largest), fill=floats(largest))


def encoding(name: str, values: np.ndarray) -> Encoding:
    return encoding_of({"encoding": name, "shape": list(values.shape[1:])})


def error_of(decoded: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.abs(decoded.astype(np.float64) - values)


def assert_held_as_said(name: str, values: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Encode and decode; the layout says what is stored, and max_error bounds what is lost."""
    chosen = encoding(name, values)
    arrays = chosen.encode(values)
    said = {
        key: (layout.dtype, layout.shape_of(len(values))) for key, layout in chosen.layout.items()
    }
    assert {key: (array.dtype, array.shape) for key, array in arrays.items()} == said
    decoded = chosen.decode(arrays)
    assert decoded.shape == values.shape
    if not isinstance(chosen, TopK):
        assert error_of(decoded, values).max() <= chosen.max_error(values, arrays)
    return arrays, decoded


# Round trips.


@settings(deadline=None)
@given(values=rows_of())
def test_float32_holds_every_bit(values: np.ndarray) -> None:
    _, decoded = assert_held_as_said("float32", values)
    assert decoded.tobytes() == values.tobytes()


@settings(deadline=None)
@given(values=rows_of(largest=65_504.0))
def test_float16_rounds_to_eleven_bits(values: np.ndarray) -> None:
    _, decoded = assert_held_as_said("float16", values)
    assert decoded.dtype == "<f2"
    assert (error_of(decoded, values) <= np.abs(values) * 2.0**-11 + 2.0**-25).all()


@settings(deadline=None, max_examples=200)
@given(values=rows_of(), name=st.sampled_from(SCALED))
def test_8_and_4_bits_are_off_by_half_a_scale_at_most(values: np.ndarray, name: str) -> None:
    arrays, decoded = assert_held_as_said(name, values)
    scale = arrays.get("scale", arrays.get("channel_scale")).astype(np.float64)
    if name == PER_ROW:
        scale = scale.reshape(-1, *(1 for _ in values.shape[1:]))
    else:
        scale = scale.reshape(1, -1, *(1 for _ in values.shape[2:]))
    # float32 rounds the scale, of which up to 255 are counted, their product and the sum.
    rounding = 255 * np.spacing(scale.astype("<f4")) + 3 * np.spacing(np.abs(values).max())
    assert (error_of(decoded, values) <= scale / 2 + rounding).all()


def test_4_bits_take_half_a_byte_a_value_and_keep_their_order() -> None:
    values = np.arange(15, dtype="<f4").reshape(1, 15).repeat(2, axis=0)
    values[1] = 15 - values[1]
    arrays, decoded = assert_held_as_said(PACKED, np.concatenate([values * 0, values + 0.0]))
    assert arrays["values"].shape == (4, 8), "fifteen values"
    np.testing.assert_allclose(decoded[2:], values, atol=0.5)
    assert (decoded[:2] == 0).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(5, 1), (1, 1), (4, 1, 3, 3), (1, 6), (3, 6, 1, 1)])
@pytest.mark.parametrize("constant", [0.0, -7.25, 1e4])
def test_constant_rows_come_back_as_they_were(
    name: str, shape: tuple[int, ...], constant: float
) -> None:
    """One class and one channel among them, where a row or a channel has no range."""
    values = np.full(shape, constant, dtype="<f4")
    _, decoded = assert_held_as_said(name, values)
    np.testing.assert_array_equal(decoded, values)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("size", [1e-45, 1e-44, 1e-38, 1e-30, 1e30, LARGEST])
def test_the_smallest_and_the_largest_of_8_and_4_bits_come_back(name: str, size: float) -> None:
    values = np.array([[-size, size], [size, -size]], dtype="<f4")
    _, decoded = assert_held_as_said(name, values)
    np.testing.assert_allclose(decoded, values, rtol=1e-5, atol=2e-43)


@settings(deadline=None)
@given(values=rows_of(largest=1e4), name=st.sampled_from(NAMES))
def test_a_row_decodes_alone_as_among_others(values: np.ndarray, name: str) -> None:
    """What is shared by a shard comes a row each where rows of several shards are gathered."""
    chosen = encoding(name, values)
    arrays = chosen.encode(values)
    decoded = chosen.decode(arrays)
    mixed = np.array([len(values) - 1, 0, 0])
    gathered = {
        key: array[mixed] if chosen.layout[key].by_row else np.stack([array] * len(mixed))
        for key, array in arrays.items()
    }
    np.testing.assert_array_equal(chosen.decode(gathered), decoded[mixed])


# Rows of several shards.


@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_rows_of_several_shards_decode_as_each_shard_alone(data: st.DataObject) -> None:
    """The numbers a channel differ from shard to shard: every row must meet its own."""
    shape = data.draw(st.sampled_from([[5], [3, 2, 2], [1]]))
    name = data.draw(st.sampled_from(NAMES + ["top3"] * (shape == [5])))
    rows, per_shard = data.draw(st.integers(1, 14)), data.draw(st.integers(1, 15))
    described = {"encoding": name, "shape": shape}
    spec = cache_spec(rows=rows, rows_per_shard=per_shard, kinds={"features/late": described})
    alone = []
    for place in schema.places(spec):
        chosen = encoding_of(described)
        alone.append(chosen.decode(chosen.encode(answers(spec, "features/late", place))))
    asked = np.array(list(np.ndindex(3, rows)))  # every row of the three views
    order = data.draw(st.permutations(range(len(asked))))
    with TemporaryDirectory() as folder:
        kind = Kind(make_cache(Path(folder), spec) / "features/late")
        got = kind.gather(*asked[order].T)
        np.testing.assert_array_equal(got, np.concatenate(alone)[order])
        for (_, part), expected in zip(kind.parts(), alone, strict=True):
            np.testing.assert_array_equal(part, expected)


# The largest few.


def softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_a_top_k_list_keeps_the_kept_classes_probabilities_and_the_mass_of_the_rest(
    data: st.DataObject,
) -> None:
    classes = data.draw(st.integers(2, 30))
    k = data.draw(st.integers(1, classes - 1))
    logits = data.draw(arrays_of.arrays("<f4", (4, classes), elements=floats(40)))
    arrays, decoded = assert_held_as_said(f"top{k}", logits)
    kept = arrays["classes"].astype(int)
    largest = np.sort(logits, axis=1)[:, ::-1][:, :k]
    np.testing.assert_array_equal(np.take_along_axis(logits, kept, 1), largest)
    # float16 moves a logit by max_error at most, and so a probability by its exponential twice.
    off = TopK(k, classes).max_error(logits, arrays)
    assert (np.abs(np.take_along_axis(decoded, kept, 1).astype(float) - largest) <= off).all()
    before, after = softmax(logits), softmax(decoded)
    factor = np.expm1(2 * off + 1e-4)
    for at in (kept, np.argsort(-logits, axis=1, kind="stable")[:, k:]):
        one, other = (np.take_along_axis(p, at, 1) for p in (before, after))
        if at is not kept:
            one, other = one.sum(1), other.sum(1)
        np.testing.assert_allclose(other, one, rtol=factor, atol=0)


def test_classes_that_fall_out_of_a_list_share_its_rest_evenly() -> None:
    logits = np.log(np.array([[0.5, 0.1, 0.3, 0.06, 0.04]], dtype="<f4"))
    decoded = encoding("top2", logits).decode(encoding("top2", logits).encode(logits))
    expected = [[0.5, 0.2 / 3, 0.3, 0.2 / 3, 0.2 / 3]]
    np.testing.assert_allclose(softmax(decoded), expected, atol=1e-3)


def test_equal_logits_keep_the_first_classes_of_them() -> None:
    arrays = encoding("top3", np.zeros((1, 9))).encode(np.zeros((1, 9), dtype="<f4"))
    np.testing.assert_array_equal(arrays["classes"], [[0, 1, 2]])


@pytest.mark.parametrize(("classes", "dtype"), [(1 << 16, "<u2"), ((1 << 16) + 1, "<u4")])
def test_the_last_class_of_many_has_a_number(classes: int, dtype: str) -> None:
    logits = np.zeros((1, classes), dtype="<f4")
    logits[0, -1] = 9
    arrays, decoded = assert_held_as_said("top1", logits)
    assert (arrays["classes"].dtype, arrays["classes"][0, 0]) == (dtype, classes - 1)
    assert decoded.argmax() == classes - 1


# What it costs, in bytes a view and in Kullback-Leibler divergence.


def divergence(logits: np.ndarray, name: str) -> float:
    """The mean of KL(as answered || as stored) at temperature 1."""
    chosen = encoding(name, logits)
    one, other = softmax(logits), softmax(chosen.decode(chosen.encode(logits)))
    return float((one * (np.log(one) - np.log(other))).sum(1).mean())


def row_bytes(name: str, classes: int) -> int:
    chosen = encoding_of({"encoding": name, "shape": [classes]})
    return sum(layout.bytes for layout in chosen.layout.values() if layout.by_row)


def realistic(rows: int = 5000, classes: int = 100) -> np.ndarray:
    """Logits of deviation 3: the likeliest class has 0.44 on average."""
    return np.random.default_rng(0).normal(0, 3, (rows, classes)).astype("<f4")


def leading(logits: np.ndarray, leaders: int, lead: float) -> np.ndarray:
    """The same with a lead for the first classes of each row."""
    ahead = logits.copy()
    ahead[:, :leaders] += lead
    return ahead


@pytest.mark.parametrize(
    ("logits", "in_8_bits", "in_top_10"),
    [  # measured: 7.1e-5 and 1.3e-1; 2.7e-7 and 6.9e-5; 1.8e-4 and 7e-6
        (realistic(), 1e-4, 1e-1),
        (leading(realistic(), 1, lead=20), 1e-6, 1e-5),
        (leading(realistic(), 2, lead=50), 1e-3, 0),
    ],
    ids=["realistic", "very confident", "torn between two"],
)
def test_8_bits_a_class_tell_more_than_a_list_of_ten_unless_all_the_mass_is_in_it(
    logits: np.ndarray, in_8_bits: float, in_top_10: float
) -> None:
    """100 classes. The scale grows with a row's range, so very long leads cost 8 bits most."""
    assert (row_bytes(PER_ROW, 100), row_bytes("top10", 100)) == (108, 44)
    assert in_8_bits / 10 < divergence(logits, PER_ROW) < in_8_bits
    assert in_top_10 < divergence(logits, "top10") < 10 * max(in_top_10, 1e-5)


# Names of encodings.


@pytest.mark.parametrize(
    ("chosen", "classes", "expected"),
    [("uint8", 100, PER_ROW), ("float16", 100, "float16"), ("float32", 1, "float32"),
     ("top10", 11, "top10"), ("top10", 10, "float16"), ("top10", 3, "float16")],
)  # fmt: skip
def test_what_params_choose_for_logits(chosen: str, classes: int, expected: str) -> None:
    assert logits_encoding(chosen, classes) == expected
    assert encoding_of({"encoding": expected, "shape": [classes]}).layout


def test_what_params_choose_for_features() -> None:
    assert [features_encoding(name) for name in ("uint8", "uint4", "float16")] == [
        PER_CHANNEL,
        PACKED,
        "float16",
    ]


@pytest.mark.parametrize(
    ("name", "shape"),
    [("top1", [(1 << 20) + 1]),
     ("top0", [9]), ("top9", [9]), ("top-1", [9]), ("top", [9]), ("top1e1", [99]), ("top² ", [9]),
     ("top99999999999", [9]), ("top" + 5000 * "9", [9]), ("top2", [3, 3]), ("float64", [9]),
     ("uint8", [9]), ("", [9])],
)  # fmt: skip
def test_a_name_that_means_nothing_is_refused(name: str, shape: list[int]) -> None:
    with pytest.raises(ValueError):
        encoding_of({"encoding": name, "shape": shape})


@pytest.mark.parametrize(
    ("name", "array", "number"),
    [("top2", "classes", 5), (PER_ROW, "scale", np.inf), (PER_ROW, "offset", np.nan),
     (PER_ROW, "scale", 3e38), (PER_CHANNEL, "channel_scale", np.nan),
     (PACKED, "channel_offset", np.inf)],
)  # fmt: skip
def test_numbers_that_cannot_be_decoded_are_refused(name: str, array: str, number: float) -> None:
    values = np.zeros((3, 5), dtype="<f4")
    arrays = encoding(name, values).encode(values)
    encoding(name, values).check(arrays)
    arrays[array].flat[-1] = number
    with pytest.raises(ValueError, match="class 5 of 5" if name == "top2" else "not finite"):
        encoding(name, values).check(arrays)


@pytest.mark.parametrize("name", SCALED)
def test_numbers_of_which_the_largest_alone_cannot_be_decoded_are_refused(name: str) -> None:
    chosen = encoding(name, np.zeros((3, 5), dtype="<f4"))
    arrays = chosen.encode(np.zeros((3, 5), dtype="<f4"))
    for key in arrays.keys() - {"values"}:
        arrays[key][:] = 2e38 if "offset" in key else 2e38 / chosen.levels
    with pytest.raises(ValueError, match="not finite"):
        chosen.check(arrays)

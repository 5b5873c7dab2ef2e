"""Samples of a linear head: their spread against the exact posterior, and what they predict."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import softmax

from pipeline import posteriors
from pipeline.heads import LinearHead, choose_head, fit_heads, uncertainty_of_one
from pipeline.posteriors import SampledHeads, langevin, laplace

PRIOR = 0.5  # the variance of a weight


def head(weight: np.ndarray, prior: float = PRIOR) -> LinearHead:
    classes, columns = weight.shape
    still = np.zeros(columns, "f4"), np.ones(columns, "f4")
    return LinearHead(*still, weight.astype("f4"), np.zeros(classes, "f4"), prior)


def task(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three noisy classes in two dimensions, around the corners of a triangle."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    corners = np.array([[2, 0], [-1, 1.7], [-1, -1.7]])
    inputs = corners[labels] + generator.normal(size=(count, 2), scale=1.5)
    return inputs.astype("f4"), labels


def most_likely(inputs: np.ndarray, labels: np.ndarray, prior: float) -> LinearHead:
    """The head with the greatest posterior density, its bias under the same prior."""
    ones = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(3, 3)
        p = softmax(ones @ weights.T, axis=1)
        error = p.copy()
        error[np.arange(len(labels)), labels] -= 1
        nll = -np.log(p[np.arange(len(labels)), labels]).sum()
        return nll + flat @ flat / (2 * prior), (error.T @ ones + weights / prior).ravel()

    found = minimize(loss, np.zeros(9), jac=True, method="L-BFGS-B", options={"ftol": 1e-14})
    weights = found.x.reshape(3, 3)
    still = np.zeros(2, "f4"), np.ones(2, "f4")
    return LinearHead(*still, weights[:, :2].astype("f4"), weights[:, 2].astype("f4"), prior)


def only(heads: Iterable[SampledHeads]) -> SampledHeads:
    (one,) = heads
    return one


def covariance(sampled: SampledHeads) -> np.ndarray:
    flat = sampled.weights.reshape(len(sampled.weights), -1).astype(float)
    return np.cov(flat.T)


def hessian(point: LinearHead, inputs: np.ndarray) -> np.ndarray:
    """Of the loss and the prior, over all weights and biases; the exact one, sample by sample."""
    ones = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
    p = softmax(point.logits(inputs).astype(float), axis=1)
    size = p.shape[1] * ones.shape[1]
    total = np.eye(size) / point.inverse_regularisation
    for probability, row in zip(p, ones, strict=True):
        between = np.diag(probability) - np.outer(probability, probability)
        total += np.kron(between, np.outer(row, row))
    return total


def test_laplace_is_as_wide_as_the_hessian_says_where_a_kronecker_product_is_exact() -> None:
    """Every sample is alike: then the mean of products is the product of means."""
    inputs = np.tile(np.array([[1.0, -2.0]], "f4"), (5, 1))
    point = head(np.array([[0.5, 0.1], [0.0, -0.3], [0.2, 0.2]]))
    sampled = only(laplace([point], inputs, [1.0], 20_000, seed=0))
    expected = np.linalg.inv(hessian(point, inputs))
    np.testing.assert_allclose(covariance(sampled), expected, atol=0.02)
    mean = sampled.weights.mean(0)
    np.testing.assert_allclose(mean[:, :2], point.weight, atol=0.03)


def test_laplace_is_close_to_the_exact_hessian_elsewhere() -> None:
    inputs, labels = task(60)
    point = most_likely(inputs, labels, PRIOR)
    sampled = only(laplace([point], inputs, [1.0], 20_000, seed=0))
    exact = np.linalg.inv(hessian(point, inputs))
    error = np.linalg.norm(covariance(sampled) - exact) / np.linalg.norm(exact)
    assert error < 0.2


@pytest.mark.parametrize("batch_size", [400, 200])
def test_a_langevin_walk_visits_the_posterior(
    batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With many samples the posterior is a Gaussian whose inverse covariance is the Hessian."""
    monkeypatch.setattr(posteriors, "BATCH_SIZE", batch_size)
    inputs, labels = task(400)
    point = most_likely(inputs, labels, PRIOR)
    sampled = only(langevin([point], inputs, labels, [1.0], 3000, seed=0))
    exact = np.linalg.inv(hessian(point, inputs))
    # Classes moved alike change nothing, and the prior alone holds them: a walk is slow there.
    centred = np.kron(np.eye(3) - 1 / 3, np.eye(3))
    ours, theirs = centred @ covariance(sampled) @ centred, centred @ exact @ centred
    assert np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) < 0.35
    weights = np.concatenate([point.weight, point.bias[:, None]], axis=1)
    offset = sampled.weights.mean(0) - weights
    assert np.abs(offset - offset.mean(0)).max() < 0.1


@pytest.mark.parametrize("classes", [2, 3])
def test_the_coldest_walk_stays_at_the_head_that_was_fitted(classes: int) -> None:
    """Of two classes scikit-learn has one row of weights, and it leaves biases free."""
    inputs, labels = task(300)
    labels = np.minimum(labels, classes - 1)
    few = np.concatenate([np.flatnonzero(labels == 0)[:20], np.flatnonzero(labels)])
    inputs, labels = inputs[few], labels[few]
    still = np.zeros(2, "f4"), np.ones(2, "f4")
    (point,) = fit_heads(inputs, labels, *still, [0.01])
    sampled = only(langevin([point], inputs, labels, [1e-9], 500, seed=0))
    weights = np.concatenate([point.weight, point.bias[:, None]], axis=1)
    np.testing.assert_allclose(sampled.weights.mean(0), weights, atol=0.005)
    assert np.abs(weights[:, -1]).max() > 0.1


@pytest.mark.parametrize("method", ["laplace", "langevin"])
def test_a_colder_posterior_is_narrower_and_samples_are_the_same_again(method: str) -> None:
    inputs, labels = task(90)
    point = most_likely(inputs, labels, PRIOR)

    def draw() -> list[SampledHeads]:
        if method == "laplace":
            return list(laplace([point], inputs, [0.01, 1.0], 50, seed=3))
        return list(langevin([point], inputs, labels, [0.01, 1.0], 50, seed=3))

    (cold, warm), (again, _) = draw(), draw()
    np.testing.assert_array_equal(cold.weights, again.weights)
    assert (cold.temperature, warm.temperature) == (0.01, 1.0)
    assert 0 < np.trace(covariance(cold)) < 0.05 * np.trace(covariance(warm))


def test_the_prediction_is_the_mean_softmax_with_its_two_entropies() -> None:
    """Two heads that disagree about the first input, and agree about the second."""
    one, other = np.zeros((2, 2)), np.zeros((2, 2))
    one[:, 0], other[:, 0] = [np.log(9), 0], [0, np.log(9)]  # 0.9 : 0.1 and 0.1 : 0.9 at x = 1
    point = head(np.zeros((2, 1)))
    sampled = SampledHeads(point, np.stack([one, other]).astype("f4"), 1.0)
    logits, uncertainty = sampled.predict(np.array([[1.0], [0.0]], "f4"))
    assert (logits.dtype, uncertainty.dtype) == ("f4", "f4")
    np.testing.assert_allclose(np.exp(logits), [[0.5, 0.5], [0.5, 0.5]], atol=1e-6)
    of_each = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    expected = [[np.log(2), np.log(2) - of_each], [np.log(2), 0]]
    np.testing.assert_allclose(uncertainty, expected, atol=1e-6)


def test_a_single_heads_uncertainty_is_its_entropy() -> None:
    logits = np.log(np.array([[0.9, 0.1], [0.5, 0.5]])) + 7
    of_first = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    np.testing.assert_allclose(
        uncertainty_of_one(logits), [[of_first, 0], [np.log(2), 0]], atol=1e-6
    )


@pytest.mark.parametrize("method", [laplace, langevin])
def test_samples_say_of_the_head_they_are_around_how_it_was_fitted(
    method: Callable[..., Iterable[SampledHeads]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posteriors, "BURN_IN", 1)
    inputs, labels = task(30)
    taught = replace(most_likely(inputs, labels, PRIOR), self_training=2)
    told = (inputs,) if method is laplace else (inputs, labels)
    described = only(method([taught], *told, [0.1], 4, 0)).describe()
    assert {**described, "sha256": ""} == {
        "inverse_regularisation": PRIOR, "self_training": 2, "temperature": 0.1, "samples": 4,
        "sha256": "",
    }  # fmt: skip


def test_many_rows_are_predicted_as_each_alone() -> None:
    inputs, labels = task(2100)
    sampled = only(laplace([most_likely(inputs[:60], labels[:60], PRIOR)], inputs, [1.0], 8, 0))
    logits, uncertainty = sampled.predict(inputs)
    assert logits.shape == (2100, 3) and uncertainty.shape == (2100, 2)
    for row in (0, 1023, 1024, 2099):
        alone = sampled.predict(inputs[row : row + 1])
        np.testing.assert_allclose(alone[0][0], logits[row], atol=1e-5)
        np.testing.assert_allclose(alone[1][0], uncertainty[row], atol=1e-5)


def test_fewer_labels_and_farther_inputs_are_less_certain() -> None:
    few, many = (
        only(laplace([most_likely(*task(n), PRIOR)], task(n)[0], [1.0], 200, 0)) for n in (12, 600)
    )
    near, far = np.array([[-1.0, 0.0]], "f4"), np.array([[-30.0, 0.0]], "f4")  # between two
    assert few.predict(near)[1][0, 1] > 3 * many.predict(near)[1][0, 1]
    assert many.predict(far)[1][0, 1] > many.predict(near)[1][0, 1]


def test_validation_chooses_prior_and_temperature() -> None:
    inputs, labels = task(30)
    test, truth = task(600, seed=1)
    heads = fit_heads(inputs, labels, np.zeros(2, "f4"), np.ones(2, "f4"), [0.01, 1.0, 100.0])
    choices = list(laplace(heads, inputs, [0.001, 1.0], 200, 0))
    assert len(choices) == 6
    chosen = choose_head(choices, test, truth)
    assert isinstance(chosen, SampledHeads)

    def nll(one: SampledHeads) -> float:
        return float(-one.predict(test)[0][np.arange(len(truth)), truth].mean())

    assert nll(chosen) == min(map(nll, choices))
    free = [one for one in choices if one.point.inverse_regularisation == 100]
    assert nll(free[1]) < nll(free[0]), "averaging mends a head that is too sure of few labels"
    assert chosen.describe()["temperature"] == chosen.temperature

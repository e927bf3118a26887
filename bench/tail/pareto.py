"""Peaks over a threshold: the generalised Pareto distribution (GPD), its fit, its intervals and how well it fits.

Above a high threshold the excesses of independent, identically distributed values tend to
P(Y > y) = (1 + shape * y / scale) ** (-1 / shape) (Pickands, Balkema and de Haan, 1974 and 1975). `shape` is positive
for heavy tails, zero for exponential ones and negative where the tail has an end; `scipy.stats.genpareto` calls it c.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple, Sequence, Tuple

import numpy as np
import numpy.typing as npt

SHAPES = (-0.95, 1.5)
"""Where shapes are looked for: below -1 the likelihood has no maximum, and above 1 the tail has no mean."""

_ANGLES, _RADII = 64, 32
_FURTHEST = 4.0
"""How far from the maximum the likelihood is looked at, in standard errors: a 95% region ends near 2."""

_SIMULATED, _SIMULATED_SIZE = 1000, 250
"""Samples that stand for the distribution of the Anderson-Darling statistic, and how large they are: it hardly depends
on their size from 25 on (V. Choulakian and M. A. Stephens, Technometrics 43(4), 2001)."""


class Fit(NamedTuple):
    """A GPD of excesses.

    Attributes:
        shape: Without unit.
        scale: In the unit of the excesses.
    """

    shape: float
    scale: float


def quick_fit(excesses: npt.NDArray[Any]) -> Tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Shape and scale of each row by the estimator of J. Zhang and M. A. Stephens, Technometrics 51(3), 2009.

    It needs no iteration, so that thousands of samples are fitted at once, and is nearly as good as the maximum of the
    likelihood.

    Args:
        excesses: Positive, shape (samples, n) or (n,), sorted ascending in each row.

    Returns:
        shapes and scales, each of shape (samples,).
    """
    rows = np.atleast_2d(np.asarray(excesses, np.float64))
    n = rows.shape[1]
    points = 20 + int(math.sqrt(n))
    steps = 1 - np.sqrt(points / (np.arange(1, points + 1) - 0.5))
    quarter = rows[:, int(n / 4 + 0.5) - 1]
    grid = 1 / rows[:, -1, None] + steps / (3 * quarter[:, None])
    likelihood = np.empty(grid.shape)
    for column in range(points):
        shape = np.log1p(-grid[:, column, None] * rows).mean(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            likelihood[:, column] = n * (np.log(-grid[:, column] / shape) - shape - 1)
    likelihood = np.where(np.isfinite(likelihood), likelihood, -np.inf)
    weights = np.exp(likelihood - likelihood.max(axis=1, keepdims=True))
    theta = (grid * weights).sum(axis=1) / weights.sum(axis=1)
    shapes = np.log1p(-theta[:, None] * rows).mean(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        scales = np.where(np.abs(theta) > 1e-12, -shapes / theta, rows.mean(axis=1))
    return shapes, scales


def fit(excesses: npt.NDArray[Any]) -> Fit:
    """The maximum of the likelihood, along S. D. Grimshaw's profile (Technometrics 35(2), 1993).

    Args:
        excesses: Positive, shape (n,).
    """
    from scipy.optimize import minimize_scalar

    values = np.sort(np.asarray(excesses, np.float64))
    mean, greatest = float(values.mean()), float(values[-1])

    def of(ratio: float) -> Tuple[float, float]:
        """Shape and scale that are best where shape / scale is `ratio`."""
        if abs(ratio) * greatest < 1e-9:
            return 0.0, mean
        shape = float(np.clip(np.log1p(ratio * values).mean(), *SHAPES))
        return shape, shape / ratio

    def cost(ratio: float) -> float:
        return -float(log_likelihood(values, np.array([of(ratio)[0]]), np.array([of(ratio)[1]]))[0])

    # Between the end of the tail at the greatest value and very heavy tails; scanned first, since it has two maxima.
    lowest = -1 / greatest * (1 - 1e-9)
    scan = np.concatenate([lowest * np.geomspace(1, 1e-3, 30), [0.0], np.geomspace(1e-3, 1e3, 60) / mean])
    costs = [cost(float(ratio)) for ratio in scan]
    best = int(np.argmin(costs))
    low, high = float(scan[max(best - 1, 0)]), float(scan[min(best + 1, len(scan) - 1)])
    found = minimize_scalar(cost, bounds=(low, high), method="bounded", options={"xatol": 1e-10 * abs(high - low)})
    ratio = float(found.x) if float(found.fun) <= costs[best] else float(scan[best])
    return Fit(*of(ratio))


def log_likelihood(excesses: npt.NDArray[Any], shapes: npt.NDArray[Any], scales: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Log-likelihood of each pair of a shape and a scale; minus infinity where an excess is impossible.

    Args:
        excesses: Shape (n,).
        shapes, scales: Shape (m,).

    Returns:
        Shape (m,).
    """
    shape, scale = shapes[:, None], scales[:, None]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        logs = np.log1p(shape * (excesses[None, :] / scale))
        small = np.abs(shape) < 1e-9
        terms = np.where(small, excesses[None, :] / scale, (1 + 1 / np.where(small, 1.0, shape)) * logs)
        found = -len(excesses) * np.log(scales) - terms.sum(axis=1)
    return np.where(np.isfinite(found), found, -np.inf)


class Region(NamedTuple):
    """Fits by how much less likely they are than the best one.

    Attributes:
        shapes, scales: Shape (angles, radii), from the best fit outwards.
        loss: Log-likelihood lost, same shape; infinite where excesses are impossible.
    """

    shapes: npt.NDArray[Any]
    scales: npt.NDArray[Any]
    loss: npt.NDArray[Any]

    def at(self, loss: float) -> Tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Shapes and log scales of the fits that lose as much: a closed contour around the best."""
        inside = np.minimum.accumulate(self.loss <= loss, axis=1)
        last = np.clip(inside.sum(axis=1) - 1, 0, self.loss.shape[1] - 2)
        rows = np.arange(len(last))
        below, above = self.loss[rows, last], self.loss[rows, last + 1]
        # The loss is nearly the square of the distance, so roots are interpolated.
        roots = [np.sqrt(np.maximum(value, 0)) for value in (below, above)]
        with np.errstate(invalid="ignore"):
            width = roots[1] - roots[0]
        finite = np.isfinite(width) & (width > 0)
        share = np.where(finite, (math.sqrt(loss) - roots[0]) / np.where(finite, width, 1), 0.0)
        share = np.clip(share, 0, 1)
        between = [
            field[rows, last] + share * (field[rows, last + 1] - field[rows, last])
            for field in (self.shapes, np.log(self.scales))
        ]
        return between[0], between[1]


def region(excesses: npt.NDArray[Any], best: Fit) -> Region:
    """The likelihood around the best fit, along rays that its asymptotic covariance spaces evenly.

    Source of the covariance: R. L. Smith, "Estimating tails of probability distributions", Annals of Statistics 15(3),
    1987: of (shape, log scale) it is [[(1 + shape)^2, -(1 + shape)], [-(1 + shape), 2 (1 + shape)]] / n.
    """
    values = np.asarray(excesses, np.float64)
    lean = max(1 + best.shape, 0.6)  # below a half it is no covariance
    covariance = np.array([[lean**2, -lean], [-lean, 2 * lean]]) / len(values)
    angles = np.linspace(0, 2 * np.pi, _ANGLES, endpoint=False)
    directions = np.linalg.cholesky(covariance) @ np.stack([np.cos(angles), np.sin(angles)])
    radii = np.linspace(0, _FURTHEST, _RADII)
    shapes = best.shape + directions[0][:, None] * radii
    scales = best.scale * np.exp(directions[1][:, None] * radii)
    greatest = float(log_likelihood(values, np.array([best.shape]), np.array([best.scale]))[0])
    loss = np.stack([greatest - log_likelihood(values, *pair) for pair in zip(shapes, scales)])
    return Region(shapes, scales, np.where((shapes > SHAPES[0]) & (shapes < SHAPES[1]), loss, np.inf))


def excess(share: npt.NDArray[Any], shapes: npt.NDArray[Any], scales: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """What a share of the excesses exceeds: scale / shape * (share ** -shape - 1)."""
    logs = -np.log(share)
    small = np.abs(shapes) < 1e-9
    safe = np.where(small, 1.0, shapes)
    grown: npt.NDArray[Any] = np.where(small, logs, np.expm1(safe * logs) / safe)
    return scales * grown


def exceeded(excesses: npt.NDArray[Any], of: Fit) -> npt.NDArray[Any]:
    """P(Y > y) of each excess."""
    if abs(of.shape) < 1e-9:
        return np.asarray(np.exp(-excesses / of.scale))
    inner = np.maximum(1 + of.shape * excesses / of.scale, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(inner ** (-1 / of.shape))


def misfit(excesses: npt.NDArray[Any]) -> float:
    """p-value of the Anderson-Darling test that excesses are of a GPD whose two parameters come from them.

    Its distribution under the hypothesis depends on the shape alone and is simulated.
    """
    values = np.sort(np.asarray(excesses, np.float64))
    shapes, scales = quick_fit(values)
    statistic = float(_anderson_darling(values[None, :], shapes, scales)[0])
    simulated = _null(round(float(np.clip(shapes[0], -0.9, 1.0)), 1))
    return float((1 + np.count_nonzero(simulated >= statistic)) / (1 + len(simulated)))


def greatest(excesses: npt.NDArray[Any], of: Fit) -> float:
    """Probability that the greatest of so many excesses is as great as this one: small where it has a cause of its own.

    A whole sample hardly shows a handful of values from elsewhere, and they are what the tail is about.
    """
    alone = float(exceeded(np.max(excesses), of))
    return -math.expm1(len(excesses) * math.log1p(-min(alone, 1 - 1e-12)))


def _anderson_darling(rows: npt.NDArray[Any], shapes: npt.NDArray[Any], scales: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A^2 of each row, sorted ascending, shape (samples, n), against its own fit."""
    n = rows.shape[1]
    small = np.abs(shapes) < 1e-9
    safe = np.where(small, 1.0, shapes)[:, None]
    scaled = rows / scales[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(small[:, None], -scaled, -np.log1p(np.maximum(safe * scaled, -1 + 1e-15)) / safe)
    logs = np.minimum(logs, -1e-15)
    below = np.log(-np.expm1(logs))
    weights = 2 * np.arange(1, n + 1) - 1
    return np.asarray(-n - (weights * (below + logs[:, ::-1])).sum(axis=1) / n)


@functools.lru_cache(maxsize=32)
def _null(shape: float) -> npt.NDArray[Any]:
    """A^2 of samples that are of a GPD, seeded by nothing but the shape, so that a result can be had again."""
    rng = np.random.default_rng(round(100 * (shape + 2)))
    share = rng.random((_SIMULATED, _SIMULATED_SIZE))
    rows = np.sort(excess(share, np.full(share.shape, shape), np.ones(share.shape)), axis=1)
    return _anderson_darling(rows, *quick_fit(rows))


def interval(of: Region, rate: Tuple[float, float, float], p: float, level_loss: float) -> Tuple[float, float]:
    """The least and greatest excess that probability p may have: its profile-likelihood interval.

    The interval of any quantity is its range over the fits that lose at most `level_loss` (half the quantile of
    chi-squared with one degree of freedom). How often the threshold is exceeded is uncertain too, and shares the loss.

    Args:
        of: Of the fit.
        rate: Probability that a value exceeds the threshold, and the number of exceedances and of values behind it.
        p: Probability per value, at most the rate.
        level_loss: Such as 1.92 for 95%.
    """
    least, greatest = math.inf, -math.inf
    for share in _rates(rate, level_loss):
        if p >= share[0]:
            least = min(least, 0.0)
            continue
        shapes, logs = of.at(max(level_loss - share[1], 0.0))
        found = excess(np.full(shapes.shape, p / share[0]), shapes, np.exp(logs))
        least, greatest = min(least, float(found.min())), max(greatest, float(found.max()))
    return max(least, 0.0), max(greatest, 0.0)


def _rates(rate: Tuple[float, float, float], level_loss: float) -> Sequence[Tuple[float, float]]:
    """Rates around the seen one with the log-likelihood that each loses, as far as `level_loss` goes."""
    best, count, n = rate
    spread = math.sqrt(max(best * (1 - best), 1e-300) / max(n, 1.0))
    found = []
    for step in (-1.6, -0.8, 0.0, 0.8, 1.6):
        one = best + step * spread
        if step and not 0 < one < 1:
            continue
        loss = count * math.log(best / one) + ((n - count) * math.log((1 - best) / (1 - one)) if best < 1 else 0.0)
        if loss <= level_loss:
            found.append((one, max(loss, 0.0)))
    return found

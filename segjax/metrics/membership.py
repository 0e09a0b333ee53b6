"""Attacks on membership, and their scores, on the host.

An attack gives a number to each image: high if the image seems to be in the training set of the
victim, a net that can only be queried. Attacks read a signal of each image
(segjax/metrics/membership_signals.py) from the victim and from shadow nets. The attacker trains the
shadow nets and knows their training images. No attack here trains a classifier.

    attack = ATTACKS['lira_offline']
    scores = attack.score(shadow, shadow_member, victim)   # [N], from the signal attack.signal
    attack_scores(scores, member)                          # AUC, TPR at 1 % FPR, ...

Shadow arrays are [S, N]: a row for each shadow net, a column for each image. Signals of several
queries of an image, such as flipped copies, are attacked one by one, and the scores are averaged.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from segjax.errors import InputError, unknown_name
from segjax.metrics import curves, intervals, ranking

VARIANCES = ('example', 'global')
"""Names the variances of LiRA, see `lira_online`."""

SIDES = ('two', 'one')
"""Names the forms of LiRA without shadows of members, see `lira_offline`."""

SLOPE = 0.3
"""Default of the slope of `rmia`. No value is published for segmentation: see `rmia_slope`."""

CURVE_POINTS = 400
"""Largest number of points of a line of `attack_curves`, for each of two spacings."""

_TINY = 1e-30  # Added to standard deviations, as in the code of the authors of LiRA.

Attack = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(shadow [S, N], member [S, N] bool, victim [N]) -> scores [N], high for members."""


# --- attacks --------------------------------------------------------------------------------------


def loss_threshold(shadow: ArrayLike, member: ArrayLike, victim: ArrayLike) -> np.ndarray:
    """Scores images by the negative loss of the victim. Shadows are not read.

    The published attack calls an image a member if its loss is at most the mean training loss. The
    scores keep all thresholds.

    Args:
      shadow, member: unused.
      victim: [N] signal 'loss'.

    Source: Yeom et al., Privacy Risk in Machine Learning, CSF 2018.
    """
    return -np.asarray(victim, np.float64)


def confidence_threshold(shadow: ArrayLike, member: ArrayLike, victim: ArrayLike) -> np.ndarray:
    """Scores images by the confidence of the victim. It needs neither shadows nor labels.

    Args:
      shadow, member: unused.
      victim: [N] signal 'confidence'.

    Source: Salem et al., ML-Leaks, NDSS 2019, adversary 3.
    """
    return np.asarray(victim, np.float64)


def lira_online(
    shadow: ArrayLike, member: ArrayLike, victim: ArrayLike, variance: str = 'example'
) -> np.ndarray:
    """Computes the likelihood ratio of the victim's signal (LiRA).

        score = log N(phi; mu_in, sigma_in^2) - log N(phi; mu_out, sigma_out^2)

    phi is the victim's signal. mu_in is the median of the signal over the shadows that have the
    image in their training set, mu_out over the further shadows. The deviations are about the mean.

    Args:
      shadow: [S, N] signal 'logit' of the shadows.
      member: [S, N] bool, the training images of each shadow.
      victim: [N] signal 'logit' of the victim.
      variance: 'example': sigma of each image, for many shadows (64 and more). 'global': sigma_in
        and sigma_out are the same for all images, and pooled over their shadows. In the authors'
        code the global deviation also contains the spread between images.

    Returns:
      [N] float64.

    Raises:
      InputError: wrong shapes, or images without enough shadows of both kinds.

    Source: Carlini et al., Membership Inference Attacks From First Principles, S&P 2022, Alg. 1.
    """
    shadow, member, victim = _checked(shadow, member, victim)
    centre_in, deviation_in = _gaussian(shadow, member, variance, 'with the image')
    centre_out, deviation_out = _gaussian(shadow, ~member, variance, 'without the image')
    return _log_density(victim, centre_in, deviation_in) - _log_density(
        victim, centre_out, deviation_out
    )


def lira_offline(
    shadow: ArrayLike,
    member: ArrayLike,
    victim: ArrayLike,
    variance: str = 'example',
    sides: str = 'two',
) -> np.ndarray:
    """Scores how unlikely the victim's signal is for a net without the image (LiRA).

        two: score = -log N(phi; mu_out, sigma_out^2)
        one: score = -log P(N(mu_out, sigma_out^2) > phi)

    'two' is the form of the authors' code. A signal far below mu_out counts as a member too. 'one'
    ranks images as the form of the paper, 1 - P(N > phi), which rounds to 1 for many members.

    Args:
      shadow, member, victim, variance: as in `lira_online`. Shadows with the image are not read.
      sides: 'two' or 'one'.

    Returns:
      [N] float64.

    Raises:
      InputError: as `lira_online`, or unknown `sides`.

    Source: Carlini et al., Membership Inference Attacks From First Principles, S&P 2022.
    """
    if sides not in SIDES:
        raise unknown_name('lira_offline: sides', sides, SIDES)
    shadow, member, victim = _checked(shadow, member, victim)
    centre, deviation = _gaussian(shadow, ~member, variance, 'without the image')
    if sides == 'two':
        return -_log_density(victim, centre, deviation)
    return -special.log_ndtr(-(victim - centre) / deviation)


def rmia(
    shadow: ArrayLike,
    member: ArrayLike,
    victim: ArrayLike,
    slope: float = SLOPE,
    population: ArrayLike | None = None,
) -> np.ndarray:
    """Compares the likelihood ratio of each image with those of a population (RMIA).

        score(x) = share of z with ratio(x) / ratio(z) > 1
        ratio(x) = p(x; victim) / p(x),     p(x) = ((1 + a) mean_out p(x; shadow) + 1 - a) / 2

    p(x; net) is exp(-loss), the geometric mean of the probabilities of the labels. mean_out is the
    mean over the shadows without x. The mean over shadows with x is guessed as
    a mean_out + 1 - a, where a is `slope`. The attack works with few shadows.

    Args:
      shadow: [S, N] signal 'loss' of the shadows.
      member: [S, N] bool, the training images of each shadow.
      victim: [N] signal 'loss' of the victim.
      slope: a in [0, 1]. `rmia_slope` tunes it.
      population: [N] bool, the images z, for example known non-members. None: all images.

    Returns:
      [N] float64 in [0, 1].

    Raises:
      InputError: wrong shapes, a slope outside of [0, 1], an image that all shadows have, or an
        empty population.

    Source: Zarifzadeh, Liu, Shokri: Low-Cost High-Power Membership Inference Attacks, ICML 2024.
    """
    if not 0 <= slope <= 1:
        raise InputError(
            'rmia: slope',
            got=f'{slope}',
            expected='a number from 0 to 1',
            fix='slope=rmia_slope(shadow, member)',
        )
    shadow, member, victim = _checked(shadow, member, victim)
    _check_counts((~member).sum(0), 1, 'without the image')
    mean_out = _mean_of_kind(np.exp(-shadow), ~member)
    # With a slope of 1, mean_out + (1 - 1) keeps a mean that is far below the rounding of 1.
    ratio = np.exp(-victim) / (((1 + slope) * mean_out + (1 - slope)) / 2)
    is_z = np.ones(len(victim), bool) if population is None else np.asarray(population, bool)
    if not is_z.any():
        raise InputError('rmia: population', got='no image', expected='an image or more')
    of_population = np.sort(ratio[is_z])
    return np.searchsorted(of_population, ratio, side='left') / len(of_population)


def rmia_slope(shadow: ArrayLike, member: ArrayLike) -> float:
    """Returns the slope of `rmia` that attacks the shadows best, of 0, 0.1, ... 1.

    Each shadow is attacked by means of the further shadows. The mean AUC decides.

    Args:
      shadow, member: as in `rmia`.

    Raises:
      InputError: an image that fewer than two shadows lack.
    """
    shadow = np.asarray(shadow, np.float64)
    member = np.asarray(member, bool)
    slopes = np.linspace(0, 1, 11)
    areas = np.zeros(len(slopes))
    for victim in range(len(shadow)):
        rest = np.arange(len(shadow)) != victim
        for place, slope in enumerate(slopes):
            scores = rmia(shadow[rest], member[rest], shadow[victim], slope)
            areas[place] += ranking.area(ranking.roc(scores, member[victim]))
    return float(slopes[np.argmax(areas)])


class NamedAttack(NamedTuple):
    """An attack and the signal that it reads.

    signal  a name of `membership_signals.pixel_signals`
    score   the attack
    """

    signal: str
    score: Attack


ATTACKS = {
    'loss': NamedAttack('loss', loss_threshold),
    'confidence': NamedAttack('confidence', confidence_threshold),
    'lira_online': NamedAttack('logit', lira_online),
    'lira_offline': NamedAttack('logit', lira_offline),
    'lira_offline_one_sided': NamedAttack('logit', functools.partial(lira_offline, sides='one')),
    'rmia': NamedAttack('loss', rmia),
}
"""All attacks with their defaults, by name."""


def by_class(attack: Attack, shadow: ArrayLike, member: ArrayLike, victim: ArrayLike) -> np.ndarray:
    """Attacks every class on its own, by the pixels of this class.

    Args:
      attack: a function such as `lira_offline`.
      shadow: [S, N, C] signals of `membership_signals.class_signals`. NaN for absent classes.
      member: [S, N] bool.
      victim: [N, C].

    Returns:
      [N, C] float64, NaN for classes that are absent in the image.
    """
    shadow = np.asarray(shadow, np.float64)
    member = np.asarray(member, bool)
    victim = np.asarray(victim, np.float64)
    scores = np.full(victim.shape, np.nan)
    for number in range(victim.shape[1]):
        present = ~np.isnan(victim[:, number])
        if present.any():
            scores[present, number] = attack(
                shadow[:, present, number], member[:, present], victim[present, number]
            )
    return scores


def balanced_membership(num_shadows: int, num_examples: int, seed: int = 0) -> np.ndarray:
    """Draws training sets of shadows, such that each image is in half of the sets.

    Args:
      num_shadows: S, even.
      num_examples: N.
      seed: of the draw.

    Returns:
      [S, N] bool.

    Raises:
      InputError: an odd number of shadows.
    """
    if num_shadows < 2 or num_shadows % 2:
        raise InputError('number of shadows', got=f'{num_shadows}', expected='an even number')
    numbers = np.random.default_rng(seed).random((num_shadows, num_examples))
    ranks = numbers.argsort(0).argsort(0)
    return ranks < num_shadows // 2


# --- scores of an attack --------------------------------------------------------------------------


def attack_scores(
    scores: ArrayLike,
    member: ArrayLike,
    groups: ArrayLike | None = None,
    resamples: int = intervals.RESAMPLES,
) -> dict[str, Any]:
    """Computes how well scores tell members from non-members, with bootstrap intervals.

    Args:
      scores: [N] finite, high for members.
      member: [N] bool.
      groups: [N] numbers or texts, for example the sequence of each image. Intervals resample
        groups, among members and non-members separately. None: images.
      resamples: number of resamples.

    Returns:
      AUC                      area under the ROC curve, 0.5 at chance
      AP                       average precision
      TPR_at_0.1_percent       true-positive rate at a false-positive rate of at most 0.1 %
      TPR_at_1_percent         the same at 1 %
      balanced_accuracy        at the best threshold
      precision_at_recall_0.8  largest precision at a recall of at least 0.8
      intervals                {name: {'value', 'low', 'high'}}, 95 %
      members, non_members     numbers of images

      With fewer than 1000 non-members, a rate of 0.1 % means no false positive.

    Raises:
      ValueError: as `ranking.roc`, or a kind without an image.
    """
    scores = np.asarray(scores, np.float64)
    member = np.asarray(member, bool)
    _check_kinds(member)

    def statistics(times: np.ndarray) -> dict[str, np.ndarray]:
        curve = ranking.roc(scores, member, times)
        precision = ranking.precision_recall(scores, member, times)
        return {
            'AUC': ranking.area(curve),
            'AP': ranking.mean_precision(precision),
            'TPR_at_0.1_percent': ranking.largest_tpr(curve, 0.001),
            'TPR_at_1_percent': ranking.largest_tpr(curve, 0.01),
            'balanced_accuracy': ranking.balanced_accuracy(curve),
            'precision_at_recall_0.8': ranking.precision_at_recall(precision, 0.8),
        }

    # The values of all images, and their intervals.
    rows = intervals.of_statistics(statistics, member, groups, resamples=resamples)
    return {
        **{name: row['value'] for name, row in rows.items()},
        'intervals': rows,
        'members': int(member.sum()),
        'non_members': int((~member).sum()),
    }


def attack_curves(scores: Mapping[str, ArrayLike], member: ArrayLike) -> dict[str, Any]:
    """Returns the curves of attacks for a report, with the curve of chance.

    Args:
      scores: {name of the attack: [N]}.
      member: [N] bool.

    Returns:
      'roc', 'roc_log' (both axes logarithmic, points with a rate of 0 left out) and
      'precision_recall', each of `curves.curve`. Long lines are thinned.
    """
    member = np.asarray(member, bool)
    _check_kinds(member)
    linear = {}
    logarithmic = {}
    precisions = {}
    for name, values in scores.items():
        curve = ranking.roc(values, member)
        x = curve.false_positive_rate
        y = curve.true_positive_rate
        linear[name] = _thinned(x, y)
        positive = (x > 0) & (y > 0)
        logarithmic[name] = _thinned(x[positive], y[positive])
        precision = ranking.precision_recall(values, member)
        # Backwards, so that the dense end of a thinned line is at high scores.
        precisions[name] = _thinned(precision.recall[::-1], precision.precision[::-1])

    lowest = 1 / (~member).sum()
    linear['chance'] = ([0, 1], [0, 1])
    logarithmic['chance'] = ([lowest, 1], [lowest, 1])
    precisions['chance'] = ([0, 1], [member.mean(), member.mean()])
    rates = ('false-positive rate', 'true-positive rate')
    return {
        'roc': curves.curve(linear, *rates),
        'roc_log': curves.curve(logarithmic, *rates, x_scale='log', y_scale='log'),
        'precision_recall': curves.curve(precisions, 'recall', 'precision'),
    }


def slice_scores(
    scores: Mapping[str, ArrayLike], member: ArrayLike, groups: ArrayLike | None = None
) -> dict[str, dict[str, Any]]:
    """Scores an attack on parts of the images: classes of `by_class`, cities, sizes.

    Args:
      scores: {name of the part: [N]}, NaN for images outside of the part.
      member: [N] bool.
      groups: [N] groups that intervals resample, as in `attack_scores`.

    Returns:
      {name: {'AUC', 'low', 'high', 'members', 'non_members'}}. AUC and its 95 % interval are None
      for parts without a member or without a non-member.
    """
    member = np.asarray(member, bool)
    rows: dict[str, dict[str, Any]] = {}
    for name, values in scores.items():
        values = np.asarray(values, np.float64)
        inside = ~np.isnan(values)
        num_members = int((inside & member).sum())
        num_rest = int((inside & ~member).sum())
        row: dict[str, Any] = {'AUC': None, 'low': None, 'high': None}
        if num_members and num_rest:
            of_images = None if groups is None else np.asarray(groups)[inside]
            interval = auc_interval(values[inside], member[inside], of_images)
            row = {'AUC': interval['value'], 'low': interval['low'], 'high': interval['high']}
        rows[name] = {**row, 'members': num_members, 'non_members': num_rest}
    return rows


def auc_interval(
    scores: ArrayLike,
    member: ArrayLike,
    groups: ArrayLike | None = None,
    level: float = intervals.LEVEL,
) -> dict[str, float]:
    """Returns 'value', 'low' and 'high' of the AUC.

    Args:
      scores, member, groups: as in `attack_scores`.
      level: share of the resampled areas inside the interval.
    """

    def statistics(times: np.ndarray) -> dict[str, np.ndarray]:
        return {'AUC': ranking.area(ranking.roc(scores, member, times))}

    return intervals.of_statistics(statistics, member, groups, level=level)['AUC']


def image_rates(scores: ArrayLike, member: ArrayLike) -> np.ndarray:
    """Computes the false-positive rate at which each image is called a member.

        rate(x) = #{non-members with score >= score(x)} / #{non-members}

    Members with the smallest rates are the most exposed images.

    Args:
      scores: [N]. NaN for images outside of a part, such as a class of `by_class`.
      member: [N] bool.

    Returns:
      [N] float64 in [0, 1]. NaN for images with the score NaN, which count nowhere.

    Raises:
      InputError: no member with a score, or no non-member.
    """
    scores = np.asarray(scores, np.float64)
    member = np.asarray(member, bool)
    has_score = ~np.isnan(scores)
    _check_kinds(member[has_score])
    of_rest = np.sort(scores[~member & has_score])
    below = np.searchsorted(of_rest, scores, side='left')
    return np.where(has_score, 1 - below / len(of_rest), np.nan)


# --- parts of the attacks -------------------------------------------------------------------------


def _gaussian(
    values: np.ndarray, of_kind: np.ndarray, variance: str, kind: str
) -> tuple[np.ndarray, np.ndarray]:
    """Fits a Gaussian to the signals of the shadows of a kind, for each image.

    Args:
      values: [S, N].
      of_kind: [S, N] bool, the shadows that count.
      variance: a name of VARIANCES.
      kind: names the shadows in errors.

    Returns:
      (median [N], standard deviation [N]).
    """
    if variance not in VARIANCES:
        raise unknown_name('variance of LiRA', variance, VARIANCES)
    count = of_kind.sum(0)
    _check_counts(count, 2 if variance == 'example' else 1, kind)
    centre = np.nanmedian(np.where(of_kind, values, np.nan), axis=0)
    squares = np.where(of_kind, values - _mean_of_kind(values, of_kind), 0) ** 2
    if variance == 'example':
        return centre, np.sqrt(squares.sum(0) / count) + _TINY

    # Each image has spent a degree of freedom on its mean.
    degrees = count.sum() - len(count)
    if not degrees:
        raise InputError(
            f'shadows {kind}',
            got='a single shadow for each image',
            expected='an image with two shadows, from which the variance is computed',
            fix='train more shadows',
        )
    return centre, np.full(len(count), np.sqrt(squares.sum() / degrees) + _TINY)


def _mean_of_kind(values: np.ndarray, of_kind: np.ndarray) -> np.ndarray:
    """Returns the mean of values [S, N] over the shadows of a kind, [N]."""
    return np.where(of_kind, values, 0).sum(0) / of_kind.sum(0)


def _log_density(x: np.ndarray, centre: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Returns log N(x; centre, deviation^2)."""
    distance = (x - centre) / deviation
    return -(distance**2) / 2 - np.log(deviation) - np.log(2 * np.pi) / 2


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keeps the points of a line that a chart can show, on linear and on logarithmic axes."""
    even = np.linspace(0, len(x) - 1, CURVE_POINTS)
    dense_at_start = np.geomspace(1, len(x), CURVE_POINTS) - 1
    kept = np.unique(np.round(np.r_[even, dense_at_start]).astype(int))
    return x[kept], y[kept]


def _checked(
    shadow: ArrayLike, member: ArrayLike, victim: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the arguments of an attack as arrays. Raises InputError for other shapes."""
    shadow = np.asarray(shadow, np.float64)
    member = np.asarray(member)
    victim = np.asarray(victim, np.float64)
    fits = shadow.ndim == 2 and shadow.shape == member.shape and shadow.shape[1:] == victim.shape
    if not fits or member.dtype != bool:
        raise InputError(
            'attack on membership',
            got=f'shadow {list(shadow.shape)}, member {list(member.shape)} {member.dtype}, '
            f'victim {list(victim.shape)}',
            expected='shadow [S, N], member [S, N] bool, victim [N]',
        )
    if not (np.isfinite(shadow).all() and np.isfinite(victim).all()):
        raise InputError(
            'attack on membership',
            got='a signal that is not finite',
            expected='a number for each image and shadow',
            fix='leave out the images without a labelled pixel',
        )
    return shadow, member, victim


def _check_counts(count: np.ndarray, needed: int, kind: str) -> None:
    """Raises InputError if an image has fewer shadows of a kind than an attack needs."""
    if count.min() < needed:
        place = int(count.argmin())
        raise InputError(
            f'shadows {kind}',
            got=f'{count[place]} for image {place}',
            expected=f'{needed} or more for each image',
            fix='draw the training sets by balanced_membership, with more shadows',
        )


def _check_kinds(member: np.ndarray) -> None:
    """Raises InputError unless there are members and non-members."""
    if member.all() or not member.any():
        kind = 'members' if member.any() else 'non-members'
        raise InputError(
            'images under attack', got=f'{kind} alone', expected='members and non-members'
        )

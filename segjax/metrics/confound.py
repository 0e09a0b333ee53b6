"""Warning that members and non-members differ in more than membership, on the host.

If members come from other streets or other daylight than non-members, an attack that recognises the
street looks like an attack on membership. A classifier that sees simple facts of the images, and no
net, must not tell members from non-members.

    facts = [image_facts(image, label, num_classes) for image, label in images]
    facts = {name: np.stack([row[name] for row in facts]) for name in facts[0]}
    result = confound({**facts, 'sequence': names}, member)
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from segjax.core.notes import Note
from segjax.errors import InputError
from segjax.metrics import membership, ranking

FOLDS = 5
PENALTY = 1.0
"""Weight of the squared length of the coefficients, as in scikit-learn's default."""

PERMUTATIONS = 39
"""Number of shuffled classifiers. A random split gives a warning in 1 of 40 cases."""

_LUMINANCE = (0.299, 0.587, 0.114)


class Confound(NamedTuple):
    """How well simple facts tell members from non-members.

    auc        of a classifier on all facts, cross-validated. 0.5 at chance
    low, high  ends of its 95 % interval, for the classifiers as they are
    chance     largest AUC of classifiers on shuffled facts
    by_fact    {name: AUC of a classifier on this fact alone}
    note       warning if `auc` is above `chance`, else None
    """

    auc: float
    low: float
    high: float
    chance: float
    by_fact: dict[str, float]
    note: Note | None


def image_facts(
    image: ArrayLike, label: ArrayLike | None = None, num_classes: int = 0
) -> dict[str, np.ndarray]:
    """Computes facts of an image that have nothing to do with a net.

    Args:
      image: [H, W, 3] uint8, RGB, without padding.
      label: [H, W] integer train ids. None: no class shares.
      num_classes: C.

    Returns:
      colour        [3] mean of each channel, in [0, 1]
      contrast      [1] standard deviation of the luminance
      size          [2] height and width
      class_shares  [C] share of each class among the pixels with a class, 0 without such a pixel
    """
    image = np.asarray(image)
    pixels = image.reshape(-1, 3) / 255
    facts = {
        'colour': pixels.mean(0),
        'contrast': (pixels @ _LUMINANCE).std(keepdims=True),
        'size': np.array(image.shape[:2], np.float64),
    }
    if label is not None:
        ids = np.asarray(label).ravel()
        is_class = (ids >= 0) & (ids < num_classes)
        counts = np.bincount(ids[is_class], minlength=num_classes)
        facts['class_shares'] = counts / max(counts.sum(), 1)
    return facts


def confound(
    facts: Mapping[str, ArrayLike],
    member: ArrayLike,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> Confound:
    """Tests whether facts of the images alone tell members from non-members.

    A logistic regression is trained on all images outside of a fold, and scores the images of the
    fold. The AUC is that of the scores of all folds. The same is done with facts that are shuffled
    over the images, PERMUTATIONS times. The warning compares with these AUCs, because the interval
    does not contain the spread of the training.

    Args:
      facts: {name: [N] or [N, D] numbers, or [N] texts such as names of sequences}. A text that
        occurs once says nothing.
      member: [N] bool.
      groups: [N] groups that the interval resamples, as in `membership.attack_scores`.
      seed: of the folds and of the shuffling.

    Returns:
      Confound.

    Raises:
      InputError: no facts, a fact that is not finite or of another length, or fewer members or
        non-members than folds.
    """
    member = np.asarray(member, bool)
    _check_given(facts, member)
    folds = _folds(member, seed)
    columns = {name: _columns(name, values, len(member)) for name, values in facts.items()}

    # Each fact alone, then all facts.
    by_fact = {}
    for name, numbers in columns.items():
        scores = _held_out_scores(numbers, member, folds)
        by_fact[name] = float(ranking.area(ranking.roc(scores, member)))
    numbers = np.concatenate(list(columns.values()), axis=1)
    scores = _held_out_scores(numbers, member, folds)
    interval = membership.auc_interval(scores, member, groups)

    # Shuffled facts know nothing of membership.
    generator = np.random.default_rng(seed)
    shuffled = []
    for _ in range(PERMUTATIONS):
        scores = _held_out_scores(generator.permutation(numbers), member, folds)
        shuffled.append(float(ranking.area(ranking.roc(scores, member))))
    result = Confound(
        auc=interval['value'],
        low=interval['low'],
        high=interval['high'],
        chance=max(shuffled),
        by_fact=by_fact,
        note=None,
    )
    return result._replace(note=_note(result)) if result.auc > result.chance else result


def _note(result: Confound) -> Note:
    """Returns the warning about a result."""
    strongest = max(result.by_fact, key=result.by_fact.__getitem__)
    return Note(
        'members and non-members',
        f'they differ in more than membership. Without a net, a classifier reaches AUC '
        f'{result.auc:.2f} ({result.low:.2f} to {result.high:.2f}), most by the fact '
        f'{strongest!r} ({result.by_fact[strongest]:.2f} alone). An attack with this AUC need not '
        'show a leak.',
        'draw members and non-members at random from the same images',
    )


def _check_given(facts: Mapping[str, ArrayLike], member: np.ndarray) -> None:
    """Raises InputError without facts, or for members that are no list."""
    if not facts or member.ndim != 1:
        raise InputError(
            'confound',
            got=f'{len(facts)} facts, and members of shape {list(member.shape)}',
            expected='a fact or more, and True or False for each image',
            fix="confound({'size': numpy.zeros((10, 2))}, 5 * [True, False])",
        )


def _columns(name: str, values: ArrayLike, length: int) -> np.ndarray:
    """Returns a fact as numbers [N, D]: texts become a column for each text that occurs twice."""
    array = np.asarray(values)
    is_text = array.dtype.kind in 'US' and array.ndim == 1
    is_number = array.dtype.kind in 'biuf' and array.ndim > 0 and bool(np.isfinite(array).all())
    if not (is_text or is_number) or len(array) != length:
        raise InputError(
            f'fact {name!r}',
            got=f'{array.dtype} {list(array.shape)}, for {length} images: {array.ravel()[:3]} ...',
            expected='a finite number or a text for each image',
        )
    if is_text:
        texts, counts = np.unique(array, return_counts=True)
        array = array[:, None] == texts[counts > 1]
    return np.asarray(array, np.float64).reshape(length, -1)


def _folds(member: np.ndarray, seed: int) -> np.ndarray:
    """Draws the fold of each image, [N]. Folds have equal shares of members, up to rounding."""
    generator = np.random.default_rng(seed)
    folds = np.zeros(len(member), int)
    for kind in (True, False):
        rows = np.flatnonzero(member == kind)
        if len(rows) < FOLDS:
            raise InputError(
                'members and non-members',
                got=f'{len(rows)} of {"members" if kind else "non-members"}',
                expected=f'{FOLDS} or more of both kinds',
            )
        folds[generator.permutation(rows)] = np.arange(len(rows)) % FOLDS
    return folds


def _held_out_scores(numbers: np.ndarray, member: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Scores the images of each fold by a regression on all further images.

    Args:
      numbers: [N, D].
      member, folds: [N].

    Returns:
      [N] logits of membership.
    """
    scores = np.zeros(len(member))
    for fold in range(FOLDS):
        held_out = folds == fold
        train = numbers[~held_out]
        deviation = train.std(0)
        scale = np.where(deviation > 0, deviation, 1)
        weights, bias = regress((train - train.mean(0)) / scale, member[~held_out])
        scores[held_out] = (numbers[held_out] - train.mean(0)) / scale @ weights + bias
    return scores


def regress(
    numbers: np.ndarray, truth: np.ndarray, penalty: float = PENALTY
) -> tuple[np.ndarray, float]:
    """Fits a logistic regression.

        minimise sum_i log(1 + exp(-s_i (w . x_i + b))) + penalty / 2 |w|^2,     s_i = +1 or -1

    Args:
      numbers: [N, D], x.
      truth: [N] bool, where s is +1.
      penalty: at least 0.

    Returns:
      (w [D], b).
    """
    sign = np.where(truth, 1.0, -1.0)

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights = parameters[:-1]
        bias = parameters[-1]
        margin = sign * (numbers @ weights + bias)
        value = np.logaddexp(0, -margin).sum() + penalty / 2 * (weights @ weights)
        slope = -sign * special.expit(-margin)  # of the loss over the logit of each image
        gradient = np.append(numbers.T @ slope + penalty * weights, slope.sum())
        return value, gradient

    start = np.zeros(numbers.shape[1] + 1)
    solution = optimize.minimize(objective, start, jac=True, method='L-BFGS-B').x
    return solution[:-1], float(solution[-1])

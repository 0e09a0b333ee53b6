"""Nets of finished runs: opens them, and asks them for posteriors at the evaluation size."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax.core import parallel
from segjax.data import loader
from segjax.data.index import Chosen
from segjax.errors import InputError
from segjax.metrics import confound
from segjax.modes.audit import defences
from segjax.modes.audit.images import Images, Questions
from segjax.modes.audit.measure import Measured, Record, Sums, sums
from segjax.ops import posteriors as posteriors_lib
from segjax.ops import windows
from segjax.protocol import Array, Batch, Input, Stage, TrainState
from segjax.tasks import segmentation
from segjax.train import driver, initialization, same_run, states
from segjax.train.run import Run
from segjax.train.stage_functions import batch_in_step
from segjax.train.stop import Preempted, StopSignal

OWN_DEFENCE = 'defence of the stage'
"""Fact about a net that answers behind a defence of its stage, see `Stage.predict_defence`."""


class Net(NamedTuple):
    """A run that is open, and its stage that predicts posteriors.

    run     the run
    stages  of the run
    stage   that predicts
    """

    run: Run
    stages: tuple[Stage, ...]
    stage: Stage

    @property
    def classes(self) -> tuple[str, ...]:
        """Returns the names of the classes."""
        return tuple(self.run.spec_of(self.stage.eval_input).classes.names)


def open_net(config: ml_collections.ConfigDict, workdir: str, name: str, stop: StopSignal) -> Net:
    """Opens a run. Nothing compiles.

    Args:
      config: of the run.
      workdir: the run folder.
      name: of the stage. '' for the last stage that predicts posteriors.
      stop: asked while data are prepared.

    Raises:
      InputError: a run that cannot be evaluated, or predicts no posteriors.
    """
    run, stages = driver.open_run(config, workdir, 'evaluate', stop)
    same_run.check_classes(run.workdir, run.config, run.specs)
    return Net(run, stages, _posterior_stage(run, stages, name))


def _posterior_stage(run: Run, stages: Sequence[Stage], name: str) -> Stage:
    """Returns the stage of a name, or the last stage that predicts posteriors."""
    able = [stage.name for stage in stages if stage.predict is not None]
    if not able:
        raise InputError(
            f'--workdir {run.workdir}',
            got=f'pipeline {run.config.pipeline!r}, which predicts no posteriors',
            expected='a run that segments images',
        )
    expected = ' or '.join(map(repr, able))
    return states.able_stage(stages, able, name, 'predicts no posteriors', expected)


def load_state(net: Net, which: str) -> TrainState:
    """Returns the state of a checkpoint, 'last' or 'best', on a single device."""
    _, state = driver.load_last_stage(net.run, net.stages, which, net.stage.name)
    return jax.device_put(parallel.to_host(state), jax.local_devices()[0])


def described(net: Net, state: TrainState) -> dict[str, Any]:
    """Returns facts about a net for the record of an audit."""
    height, width = net.stage.eval_input.size
    arrays = {'params': state.params, 'model_state': state.model_state, 'extra': state.extra}
    own = {OWN_DEFENCE: net.stage.predict_defence} if net.stage.predict_defence else {}
    return {
        'model': net.run.workdir.name,
        'run': str(net.run.workdir),
        'pipeline': net.run.config.pipeline,
        'stage': net.stage.name,
        'step': int(state.step),
        'net': initialization.digest(parallel.to_host(arrays)),
        'posteriors': f'{height}x{width}, the evaluation size{_crops(net)}',
        **own,
    }


def _crops(net: Net) -> str:
    """Returns the size of the crops of `evaluate.crop` in words, '' without crops."""
    crop = net.run.config.evaluate.crop
    return ', in crops of {}x{}'.format(*crop) if crop else ''


# --- asking ---------------------------------------------------------------------------------------


class Asked(NamedTuple):
    """What the net answered.

    measured  numbers of the images
    facts     {name: [N] or [N, D]} of the images, with 'sequence', which is '' for stills
    """

    measured: Measured
    facts: dict[str, np.ndarray]


def ask(
    net: Net,
    state: TrainState,
    questions: Questions,
    place: Net,
    stop: StopSignal,
    secret: str = defences.VICTIM,
) -> Asked:
    """Asks a net about members and non-members.

    Args:
      net: that answers.
      state: of its stage, on a single device.
      questions: the images.
      place: net whose data hold the images: the victim, also where a shadow is asked.
      stop: asked between batches.
      secret: name of the secret of the defences.

    Raises:
      InputError: posteriors that are not finite.
      Preempted: the process was told to stop.
    """
    # Members and non-members of a data set share a program.
    record = Record(place.classes)
    facts: dict[str, list[np.ndarray]] = {}
    measures: dict[str, Callable[[TrainState, Batch], Sums]] = {}
    for images, member in ((questions.members, True), (questions.nonmembers, False)):
        inputs = _inputs(net, images)
        if images.data not in measures:
            measures[images.data] = net.run.topology.jit(_measure(net, place, inputs, secret))
        measure = measures[images.data]
        with contextlib.closing(_batches(place, inputs, images)) as batches:
            for batch in batches:
                if stop.reached():
                    raise Preempted(f'{net.run.workdir} was being asked')
                # Only sums leave the device.
                numbers = jax.device_get(measure(state, batch))
                for row in np.flatnonzero(batch['weight']):
                    image = int(batch['index'][row])
                    of_image = jax.tree.map(lambda values, row=row: values[row], numbers)
                    if record.add(images.names[image], member, of_image):
                        for fact, value in _facts(images, image, batch, int(row)).items():
                            facts.setdefault(fact, []).append(value)
    measured = record.measured()
    _check_finite(net, measured)
    return Asked(measured, {name: np.stack(rows) for name, rows in facts.items()})


def _check_finite(net: Net, measured: Measured) -> None:
    """Raises InputError for a net whose posteriors are not finite."""
    wrong = np.flatnonzero(~np.isfinite(measured.signals).all((1, 2)))
    if len(wrong):
        raise InputError(
            f'--workdir {net.run.workdir}',
            got=f'posteriors that are not finite, of {len(wrong)} of {len(measured.names)} images: '
            f'the first is {measured.names[wrong[0]]!r}',
            expected='a net that has not diverged',
            fix='--checkpoint best, or another run',
        )


def _inputs(net: Net, images: Images) -> Input:
    """Returns the input that reads images as the evaluation of a net sees them."""
    evaluation = net.stage.eval_input
    planes = (net.stage.predict_planes,) if net.stage.predict_planes else ()
    # One device asks about as many images at once as each device evaluates.
    rows = max(1, evaluation.batch_size // net.run.topology.count)
    features = ('image', 'label', *planes)
    return Input(images.split, rows, features, evaluation.size, data=images.data)


def _batches(place: Net, inputs: Input, images: Images) -> loader.BatchIterator:
    """Returns the batches of some images. Close it."""
    data = place.run.data_of(inputs)
    source = Chosen(data.store.open_split(images.split, inputs.stored), images.places)
    return loader.eval_batches(
        source,
        inputs,
        process_index=0,
        process_count=1,
        data_config=place.run.config.data,
        max_size=data.spec.split(images.split).max_size,
    )


def _measure(net: Net, place: Net, inputs: Input, secret: str) -> Callable:
    """Returns (state, batch) -> sums per image. Labels are brought to the evaluation size."""

    def measure(state, batch):
        batch = batch_in_step(place.run, inputs, batch)
        image = batch['image']
        keys = posteriors_lib.image_keys(defences.secret(secret), image, batch['size'])
        label = segmentation.to_image(batch['label'], batch)
        if net.stage.predict_planes:
            image = jnp.concatenate([image, batch[net.stage.predict_planes]], -1)
        return sums(posteriors_of(net, state, image, batch['size']), label, keys)

    return measure


def posteriors_of(net: Net, state: TrainState, image: Array, size: Array) -> Array:
    """Returns the posteriors of a net as its evaluation computes them, [B, H, W, C].

    With `evaluate.crop` the net sees crops, whose posteriors are averaged.

    Args:
      net: that answers.
      state: of its stage.
      image: [B, H, W, 3] uint8, or [B, H, W, 6] with further planes.
      size: [B, 2] height and width without padding.
    """
    settings = net.run.config.evaluate
    predict = functools.partial(net.stage.predict, state)
    if not settings.crop:
        return predict(image)
    return windows.average(predict, image, size, tuple(settings.crop), 1 - settings.stride)


def _facts(images: Images, image: int, batch: Batch, row: int) -> dict[str, np.ndarray]:
    """Returns the facts of an image in a row of a batch, see `confound.image_facts`."""
    height, width = batch['size'][row]
    of_image = confound.image_facts(batch['image'][row, :height, :width])
    # The size of the file, not that of the evaluation.
    of_image['size'] = np.array(batch['label_size'][row], np.float64)
    return {**of_image, 'sequence': np.array(images.clips[image])}

"""A run on examples that are drawn: frames of a clip, and a transform with random numbers."""

import pytest
import toy_pipeline
import toy_run
from run_folders import assert_same_run, stop_at

from segjax.data import crops
from segjax.errors import InputError
from segjax.protocol import DrawnFrames
from segjax.train import driver
from segjax.train.stop import Preempted

pytestmark = pytest.mark.usefixtures('functions_are_mapped_once')

FRAMES = DrawnFrames(2, (-2, -1, 1, 2))
READS = ('label', 'image_frames', 'index', 'name')
WINDOW = (24, 40)


def frame_window(example, rng):
    """Replaces the image by a drawn frame, and cuts a random window in evaluation sizes."""
    frame = example['image_frames'][rng.integers(FRAMES.count)]
    return crops.random_window({'image': frame, 'label': example['label']}, rng, WINDOW)


def drawn_stages(config, spec, original=toy_pipeline.make_stages):
    """Returns the stages of the toy pipeline on drawn examples."""
    drawn = dict(frames=FRAMES, transform=frame_window, reads=READS)
    stages = []
    for stage in original(config, spec):
        evaluated = stage.eval_input._replace(size=WINDOW, resize=False, **drawn)
        trained = stage.train_input._replace(**drawn)
        stages.append(stage._replace(train_input=trained, eval_input=evaluated))
    return tuple(stages)


@pytest.fixture(scope='module', autouse=True)
def drawn_pipeline():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy_pipeline, 'make_stages', drawn_stages)
        yield


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """Returns the folder and the scores of an undisturbed run."""
    workdir = tmp_path_factory.mktemp('drawn') / 'run'
    scores = driver.train(toy_run.make_config(), str(workdir))
    return workdir, scores


def test_an_evaluation_draws_the_same_examples_as_the_run(finished):
    workdir, scores = finished
    assert driver.evaluate(toy_run.make_config(), str(workdir)) == scores


@pytest.mark.parametrize('workers', [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_stopped_run_draws_the_examples_that_it_would_have_drawn(
    finished, tmp_path, monkeypatch, workers
):
    workdir, scores = finished
    stop_at(monkeypatch, 'adversarial', 1)
    with pytest.raises(Preempted):
        driver.train(toy_run.make_config(), str(tmp_path))
    monkeypatch.undo()
    monkeypatch.setattr(toy_pipeline, 'make_stages', drawn_stages)
    resumed = toy_run.make_config(data=dict(workers=workers))
    assert driver.train(resumed, str(tmp_path)) == scores
    assert_same_run(workdir, tmp_path)


def test_a_transform_that_cannot_be_sent_to_workers_is_refused_before_a_step(tmp_path, monkeypatch):
    def with_lambda(config, spec):
        pretrain, adversarial = drawn_stages(config, spec)
        inputs = adversarial.eval_input._replace(transform=lambda *both: frame_window(*both))
        return pretrain, adversarial._replace(eval_input=inputs)

    monkeypatch.setattr(toy_pipeline, 'make_stages', with_lambda)
    with pytest.raises(InputError, match='cannot be pickled'):
        driver.train(toy_run.make_config(data=dict(workers=1)), str(tmp_path))
    assert not (tmp_path / 'pretrain').exists()

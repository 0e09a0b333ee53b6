"""The functions of a stage, mapped over devices: the types of the batches that they see."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from fakes import SPEC

from segjax.core import parallel, rng
from segjax.data import kinds, loader
from segjax.protocol import Input, Mean, Stage, TrainState
from segjax.spec import Feature
from segjax.train import stage_functions

SIZE = (4, 6)
PHOTOS = Input('train', 2, ('image', 'parts'), SIZE, data='photos')
TRAIN = Input('train', 2, ('image', 'label', 'heat'), SIZE, unpaired=(('photo', PHOTOS),))
EVAL = Input('val', 2, ('image', 'label', 'truth'), SIZE, made=(('truth', Feature('label')),))
SPECS = {
    'data': dataclasses.replace(SPEC, declared={'heat': Feature('planes', (5,))}),
    'photos': dataclasses.replace(SPEC, declared={'parts': Feature('label')}),
}


def as_sent(inputs, declared):
    """Returns a batch with random values and the types of the loader."""
    rng_of_values = np.random.default_rng(0)
    batch = loader.zeros(inputs, 2, declared)
    for key, value in batch.items():
        dtype = kinds.device_dtype(key, kinds.feature_of(key, declared))
        batch[key] = rng_of_values.integers(0, 256, value.shape).astype(dtype)
    return batch


def make_stage(seen):
    """Returns a stage that notes the types of its batches, and sums their labels."""

    def note(use, batch):
        seen[use] = {key: value.dtype.name for key, value in batch.items()}
        labels = [key for key in batch if key.endswith(('label', 'parts', 'truth'))]
        return {key: Mean(jnp.sum(batch[key]), jnp.float32(1)) for key in labels}

    def train_step(state, batch, keys):
        return state.replace(step=state.step + 1), note('train', batch)

    return Stage(
        name='noting',
        num_steps=1,
        train_input=TRAIN,
        eval_input=EVAL,
        streams=(),
        init=lambda *_: None,
        train_step=train_step,
        eval_step=lambda state, batch, keys: note('evaluate', batch),
        finalize=dict,
        monitor=('x', 'max'),
    )


def test_labels_travel_as_bytes_and_steps_see_int32():
    topology = parallel.topology('pmap', 1)
    config = ml_collections.ConfigDict({'parallel': {'check_replicas': False}})
    run = types.SimpleNamespace(
        config=config, topology=topology, spec_of=lambda inputs: SPECS[inputs.data]
    )
    seen = {}
    functions = stage_functions.map_functions(run, make_stage(seen))
    declared = {**SPECS['data'].declared, 'photo/parts': Feature('label')}
    train = as_sent(TRAIN, declared)
    evaluate = as_sent(EVAL, dict(EVAL.made))
    assert train['label'].dtype == train['photo/parts'].dtype == np.uint8
    assert evaluate['truth'].dtype == np.uint8

    # A step sees the types that `init` sees.
    root = rng.root(0, 'noting', 'train')
    state = topology.put_replicated(TrainState(jnp.int32(0), {}, {}, {}, {}))
    _, metrics, _ = functions.train(state, topology.put_batch(train), root)
    init = loader.zeros(TRAIN, 2, declared)
    assert seen['train'] == {key: value.dtype.name for key, value in init.items()}
    assert seen['train']['label'] == seen['train']['photo/parts'] == 'int32'
    assert seen['train']['heat'] == seen['train']['image'] == 'uint8'
    for key, mean in parallel.to_host(metrics).items():
        assert mean.sum == train[key].astype(np.int64).sum(), key

    state = topology.put_replicated(TrainState(jnp.int32(0), {}, {}, {}, {}))
    functions.evaluate(state, topology.put_batch(evaluate), root, np.int32(0))
    assert seen['evaluate']['label'] == seen['evaluate']['truth'] == 'int32'


def test_a_batch_outside_of_a_mapped_function_is_converted_too():
    run = types.SimpleNamespace(spec_of=lambda inputs: SPECS[inputs.data])
    batch = as_sent(EVAL, dict(EVAL.made))
    seen = jax.jit(lambda batch: stage_functions.batch_in_step(run, EVAL, batch))(batch)
    assert {key: value.dtype for key, value in seen.items()} == {
        key: value.dtype for key, value in loader.zeros(EVAL, 2).items()
    }
    for key, value in batch.items():
        np.testing.assert_array_equal(seen[key], value)

"""Times programs of segjax: `python -m benchmarks.segjax_worker CORES`, see benchmarks/nets.py.

The programs are those of a stage of `configs/supervised.py:quick`, as `--mode bench` builds them.
EfficientNet has no such stage. It gets a step of its own with the optimiser of the same config.
"""

import contextlib
import pathlib
import sys
from typing import Any

from benchmarks import serving

if __name__ == '__main__':
    serving.use_cores(int(sys.argv[1]))  # before jax counts the cores

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from segjax.config import config_file
from segjax.core import environment, host, optim, parallel
from segjax.losses import segmentation as losses
from segjax.models.backbones.efficientnet import EfficientNet
from segjax.modes.bench import stages
from segjax.modes.bench.programs import compile_program
from segjax.ops import images
from segjax.protocol import TrainState
from segjax.tasks import segmentation, supervised
from segjax.train import driver

CLASSIFIERS = ('efficientnet',)
"""Nets that predict the class of an image."""
CLASSES_OF_IMAGES = 19

TORCH_NORM = dict(norm_epsilon=1e-5, norm_decay=0.9)

timed: dict[str, stages.Timed] = {}
"""Part -> its program."""


def describe() -> dict[str, Any]:
    """Returns the versions and the device."""
    device = jax.devices()[0]
    return {
        'device': device.device_kind,
        'cores': host.cores(),
        'keeps heap': host.keep_heap(),
        **{name: environment.version(name) for name in ('jax', 'jaxlib', 'flax', 'numpy')},
    }


def prepare(
    net: str, width: float, size: list[int], batch_size: int, dtype: str, folder: str
) -> dict[str, Any]:
    """Compiles the programs of a net, and writes the batch that both sides train on.

    Args:
      net: a name of benchmarks/nets.py.
      width: factor on the channels.
      size: (height, width) of an image.
      batch_size: images of a step, and of an inference.
      dtype: of activations.
      folder: of the run, and of batch.npz.

    Returns:
      Facts that the other side needs, the number of parameters, and the costs of the programs.
    """
    config = make_config(net, width, size, batch_size, dtype)
    build = classifier_programs if net in CLASSIFIERS else stage_programs
    facts, programs, batch = build(config, pathlib.Path(folder), width)
    timed.update(programs)
    np.savez(pathlib.Path(folder) / 'batch.npz', **batch)
    costs = {part: program.program.record() for part, program in programs.items()}
    return {**facts, 'programs': costs, 'convolutions': dict(host.compiler_options(config))}


def make_config(
    net: str, width: float, size: list[int], batch_size: int, dtype: str
) -> ml_collections.ConfigDict:
    """Returns the config of a supervised training on a few rendered images."""
    path = pathlib.Path(__file__).resolve().parents[1] / 'configs/supervised.py'
    model = 'erfnet' if net in CLASSIFIERS else net
    config = config_file.load(f'{path}:quick,model={model}')
    size_text = f'({size[0]},{size[1]})'
    settings = {
        'augment.crop': size_text,
        'data.eval_size': size_text,
        'data.world.size': size_text,
        'data.world.num_train': batch_size,
        'data.world.num_val': 1,
        'model.width': width,
        'predict.batch_size': batch_size,
        'train.batch_size': batch_size,
        'train.dtype': dtype,
    }
    return config_file.overridden(config, ';'.join(f'{k}={v}' for k, v in settings.items()))


def stage_programs(
    config: ml_collections.ConfigDict, folder: pathlib.Path, width: float
) -> tuple[dict[str, Any], dict[str, stages.Timed], dict[str, np.ndarray]]:
    """Returns (facts, programs, batch) of the stage of supervised training."""
    # The stage with fresh parameters, on a few rendered images.
    run, run_stages = driver.checked_run(config, str(folder / 'run'), 'train', trace_steps=False)
    (fresh,) = stages.fresh_runs(run, run_stages)
    (params,) = fresh.state.params.values()
    with contextlib.closing(driver.train_batches(run, fresh.stage.train_input, 0)) as batches:
        batch = next(batches)

    # Everything that the other side needs to compute the same loss.
    spec = run.spec_of(fresh.stage.train_input)
    pixels, ignored = segmentation.class_pixels(config, spec)
    weights = losses.class_weights(
        pixels, ignored, config.loss.class_weights, k=config.loss.weight_k
    )
    weight_of = supervised.head_weight(config)
    facts = {
        'parameters': count(params),
        'num_classes': segmentation.num_outputs(config, spec),
        'class_weights': weights.tolist(),
        'head_weights': [weight_of('main'), weight_of('aux')],
        'optim': optim_facts(config),
    }

    programs = {'train': stages.prepare_train(fresh), 'predict': stages.prepare_predict(fresh)}
    return facts, programs, {'image': batch['image'], 'label': batch['label']}


def classifier_programs(
    config: ml_collections.ConfigDict, folder: pathlib.Path, width: float
) -> tuple[dict[str, Any], dict[str, stages.Timed], dict[str, np.ndarray]]:
    """Returns (facts, programs, batch) of EfficientNet-B0 as torchvision has it."""
    net = EfficientNet(
        CLASSES_OF_IMAGES, padding='symmetric', width=width, dtype=config.train.dtype, **TORCH_NORM
    )
    size = tuple(config.augment.crop)
    batch_size = config.train.batch_size
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (batch_size, *size, 3), np.uint8)
    label = rng.integers(0, CLASSES_OF_IMAGES, batch_size)

    # The state of step 0, on the device.
    topology = parallel.topology(config.parallel.mode, options=host.compiler_options(config))
    variables = net.lazy_init(jax.random.key(0), jnp.zeros((1, *size, 3)), train=False)
    params, model_state = supervised.fields_of({'segmenter': variables})
    state = supervised.fresh_state(
        params,
        model_state,
        supervised.alone(config),
        num_steps=config.train.num_steps,
        ema=config.train.ema,
    )
    state = jax.device_put(state, jax.local_devices()[0])
    train = topology.jit(classifier_step(net, config), donate=(0,))
    train_program = compile_program(train, state, image, label)
    predict = topology.jit(classifier_predict(net, config))
    predict_program = compile_program(predict, state, image)
    predicting = jax.tree.map(jnp.copy, state)  # the step donates its state

    def step():
        nonlocal state
        state, loss = train_program.call(state, image, label)
        return state, loss

    programs = {
        'train': stages.Timed(step, train_program, batch_size, size),
        'predict': stages.Timed(
            lambda: predict_program.call(predicting, image), predict_program, batch_size, size
        ),
    }
    facts = {
        'parameters': count(params),
        'num_classes': CLASSES_OF_IMAGES,
        'class_weights': [1.0] * CLASSES_OF_IMAGES,
        'head_weights': [1.0, 1.0],
        'optim': optim_facts(config),
    }
    return facts, programs, {'image': image, 'label': label}


def classifier_step(net: EfficientNet, config: ml_collections.ConfigDict):
    """Returns (state, image, label) -> (state, loss): a step of the optimiser of the config."""

    def train_step(state: TrainState, image, label):
        # The loss is the mean over the images.
        def loss_of(params):
            outputs, statistics = segmentation.apply_net(
                net,
                params['segmenter'],
                state.model_state['segmenter'],
                images.normalize(image, config.preprocess),
                train=True,
                rngs={'dropout': jax.random.fold_in(jax.random.key(0), state.step)},
            )
            loss = optax.softmax_cross_entropy_with_integer_labels(outputs['logits'], label)
            return loss.mean(), statistics

        (loss, statistics), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        transform = optim.make(config.optim, config.train.num_steps, state.params)
        state = optim.apply(state, 'segmenter', transform, grads)
        return state.replace(model_state={'segmenter': statistics}, step=state.step + 1), loss

    return train_step


def classifier_predict(net: EfficientNet, config: ml_collections.ConfigDict):
    """Returns (state, image) -> probabilities [B, C]."""

    def predict(state: TrainState, image):
        variables = {'params': state.params['segmenter'], **state.model_state['segmenter']}
        outputs = net.apply(variables, images.normalize(image, config.preprocess), train=False)
        return jax.nn.softmax(outputs['logits'])

    return predict


def count(params) -> int:
    """Returns the number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def optim_facts(config: ml_collections.ConfigDict) -> dict[str, float]:
    """Returns the settings of Adam."""
    names = ('learning_rate', 'beta1', 'beta2', 'eps', 'weight_decay')
    return {name: float(config.optim[name]) for name in names}


def call(part: str) -> dict[str, float]:
    """Times one call of a program."""
    return serving.timed(timed[part].call, jax.block_until_ready)


def memory() -> int | None:
    """Returns the peak memory in bytes: of the device, or of the process on a CPU."""
    statistics = jax.local_devices()[0].memory_stats()
    if jax.default_backend() != 'cpu' and statistics:
        return statistics['peak_bytes_in_use']
    return serving.peak_memory()


if __name__ == '__main__':
    serving.serve({'describe': describe, 'prepare': prepare, 'call': call, 'memory': memory})

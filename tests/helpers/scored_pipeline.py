"""A pipeline that scores images by frozen nets, which it trains or loads, as a config."""

import flax.linen as nn
import jax.numpy as jnp
import toy_heads

from segjax import config as config_lib
from segjax import pipelines
from segjax.core import means
from segjax.metrics import landmarks as landmark_metrics
from segjax.metrics import normals as normal_metrics
from segjax.protocol import Input, Stage, TrainState
from segjax.tasks import landmarks, normals, scorers, supervised

SCHEMA = {'landmarks': landmarks.LANDMARKS, 'normals': normals.NORMALS}
TASKS = {'landmarks': landmarks, 'normals': normals}
SIZE = (32, 32)


class OneLayer(nn.Module):
    """A convolution in the place of a segmentation net."""

    num_classes: int
    axis_name: str

    @nn.compact
    def __call__(self, image, train):
        norm = nn.BatchNorm(use_running_average=not train, axis_name=self.axis_name, name='norm')
        x = norm(image)
        return {'logits': nn.Conv(self.num_classes, (5, 5), name='conv')(x)}


def build_one_layer(kind, section, num_classes, axis_name, dtype):
    """Stands in for `models.build_from`. A test that runs a pipeline compiles in seconds."""
    return OneLayer(num_classes, axis_name)


def make_stages(config, spec):
    """Returns the stages that train a scorer, and a stage that scores the images of the split."""
    used = {key: task for key, task in TASKS.items() if config[key].use != 'none'}
    stages = []
    for key, task in used.items():
        scorers.check_source(config, config[key], task.NET, key)
        if config[key].use == 'train':
            stages.append(task.make_stage(config, spec, config[key], name=key))

    def init(key, batch, earlier):
        variables = {}
        for name, task in used.items():
            of_net = task.make_variables(config, spec, config[name], SIZE, stage=name)
            variables[task.NET] = of_net(key, earlier)
        params, model_state = supervised.fields_of(variables)
        return TrainState(jnp.int32(0), params, model_state, {}, {})

    def of_image(state, key, image):
        task = TASKS[key]
        score = task.make_scorer(config, spec, config[key])
        return score(state.params[task.NET], state.model_state[task.NET], image)

    def eval_step(state, batch, keys):
        weight = batch['weight']
        values = {'weight': weight}
        if 'landmarks' in used:
            points = of_image(state, 'landmarks', batch['image'])
            error = landmark_metrics.image_error(points, batch['points_face'], SIZE[1])
            values['sum_error'] = error
        if 'normals' in used:
            vectors = of_image(state, 'normals', batch['image'].astype(jnp.float32))
            values |= normal_metrics.image_scores(vectors, batch['normals'])
        return {name: means.mean_of_examples(x, weight) for name, x in values.items()}

    judged = Stage(
        name='judged',
        num_steps=0,
        train_input=None,
        eval_input=Input('val', 8, ('image', 'points_face', 'normals'), SIZE),
        streams=(),
        init=init,
        train_step=lambda state, batch, keys: (state, {}),
        eval_step=eval_step,
        finalize=lambda sums: {name: float(mean.value()) for name, mean in sums.items()},
        monitor=('weight', 'max'),
        frozen=tuple(task.NET for key, task in used.items() if config[key].use == 'load'),
    )
    return (*stages, judged)


def make_config(use='train', num_steps=3, **sections):
    """Returns a config on the data set of balls."""
    pipelines.REGISTRY['scored'] = 'scored_pipeline'
    config = config_lib.defaults('scored')
    for key in TASKS:
        config[key].update(use=use, num_steps=num_steps, batch_size=8)
    config.landmarks.eyes = (0, 1)
    config_lib.update(
        config,
        augment=dict(crop=SIZE),
        data=dict(
            name=toy_heads.NAME,
            eval_size=SIZE,
            threads=1,
            world=dict(num_train=16, num_val=8, size=SIZE),
        ),
        evaluate=dict(batch_size=8),
        train=dict(ema=0.9),
        logging=dict(log_every=1, eval_every=0, checkpoint_every=0, num_pictures=0),
    )
    config_lib.update(config, **sections)
    return config

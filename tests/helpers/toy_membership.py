"""A membership system with toy nets, its states and its batches, for tests without files."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from fakes import NUM_CLASSES, SPEC, train_batch

from segjax import config as config_lib
from segjax.ops import images
from segjax.pipelines import membership as pipeline
from segjax.tasks import (
    attack_net,
    membership_attack,
    membership_audit,
    membership_images,
    segmentation,
    supervised,
)
from segjax.tasks.feature_synthesis import SEGMENTER

SIZE = (16, 32)
STRIDE = 4
PATCH = (3, 4)
POOL = SPEC.num_examples['train'] + SPEC.num_examples['val']
SGD = dict(name='sgd', learning_rate=0.5, momentum=0.0, weight_decay=0.0, schedule='constant')


class Toy(nn.Module):
    """Two layers with drop-out between them."""

    dropout: float = 0.5
    num_classes: int = NUM_CLASSES

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.relu(nn.Conv(6, (3, 3), name='first')(x))
        x = nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train)(x)
        return {'logits': nn.Conv(self.num_classes, (1, 1), name='second')(x)}


class ToyAttacker(nn.Module):
    """A linear layer on the mean of the planes."""

    @nn.compact
    def __call__(self, x, train: bool):
        activation = nn.Dense(membership_attack.NUM_CLASSES, name='fc')(x)
        return {'logits': activation.mean((1, 2)), 'activation': activation}


def make_config(**sections):
    config = config_lib.defaults('membership')
    config_lib.update(
        config,
        augment=dict(crop=SIZE),
        data=dict(eval_size=SIZE, train_split='train', eval_split='val'),
        train=dict(batch_size=8, num_steps=3),
        optim=SGD,
        shadow=dict(members='train', non_members='val', num_steps=4, batch_size=8, optim=SGD),
        attacker=dict(stride=STRIDE, patch=PATCH, patches=2, num_steps=5, batch_size=8, optim=SGD),
        testing=dict(num_patches=3, resamples=50),
    )
    for section, keys in sections.items():
        config_lib.update(config, **{section: keys})
    return config


def make_system(**sections):
    """Returns the system with toy nets."""
    config = make_config(**sections)
    system = pipeline.make_system(config, SPEC, SPEC)
    net = segmentation.net_of(ToyAttacker(), lambda planes: planes)
    return system._replace(
        victim=system.victim._replace(net=Toy()),
        shadow=system.shadow._replace(net=Toy()),
        attacker=system.attacker._replace(net=net),
    )


def make_audit(**sections):
    """Returns the audit of the system with toy nets."""
    return pipeline.make_audit(make_system(**sections))


def queries(rows=8, seed=0):
    """Returns a batch of whole images for a step of the attacker."""
    filled = np.tile(np.array(SIZE, np.int32), (rows, 1))
    return {**train_batch(rows, SIZE, seed), attack_net.FILLED: filled}


def eval_batch(seed=0):
    """Returns a batch of images of the audit, members and non-members, with padding."""
    batch = train_batch(8, SIZE, seed)
    size = np.tile(np.array(SIZE, np.int32), (8, 1))
    size[1] = (12, 28)
    batch['label'][1, 12:] = 255
    batch['label'][1, :, 28:] = 255
    batch['label'][0] = 0
    index = np.array([0, 5, 15, 16, 17, 20, 24, 25], np.int32)
    return {**batch, 'index': index, 'size': size, 'label_size': size}


def variables_of(net, key, shape):
    return net.init(jax.random.key(key), jnp.zeros(shape), train=False)['params']


def make_state(references=0):
    """Returns the state of an audit with random nets."""
    image = (1, *SIZE, 3)
    params = {
        SEGMENTER: variables_of(Toy(), 1, image),
        'attacker': variables_of(ToyAttacker(), 2, (1, *PATCH, 2 * NUM_CLASSES)),
    }
    for number in range(references):
        params[f'reference_{number}'] = variables_of(Toy(), 10 + number, image)
    params = jax.tree.map(lambda x: 3 * x, params)
    model_state = {name: {} for name in params}
    state = supervised.fresh_state(params, model_state, {}, num_steps=0, ema=0.0)
    members = jnp.array([membership_images.fingerprint(SPEC, 'train')], jnp.uint32)
    return state.replace(extra={**state.extra, membership_audit.MEMBERS: members})


def numpy_posteriors(params, image):
    """Returns the posteriors of the toy net, without a defence."""
    x = images.normalize(jnp.asarray(image), 'unit')
    logits = np.asarray(Toy().apply({'params': params}, x, train=False)['logits'], np.float64)
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)

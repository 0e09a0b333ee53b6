"""Keys are a function of (seed, stage, stream, step, device) and of nothing else."""

import itertools

import jax
import numpy as np

from segjax.core import rng


def bits(key):
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


def test_every_ingredient_changes_the_key_and_nothing_else_does():
    derived = {}
    for seed, stage, step, device in itertools.product(
        (0, 1), ('depth', 'segmentation'), (0, 1), (0, 1)
    ):
        for name, key in rng.streams(
            rng.root(seed, stage), ('dropout', 'noise'), step, device
        ).items():
            derived[seed, stage, step, device, name] = bits(key)
    assert len(set(derived.values())) == len(derived) == 32
    again = rng.streams(rng.root(1, 'depth'), ('dropout', 'noise'), 1, 0)
    assert bits(again['noise']) == derived[1, 'depth', 1, 0, 'noise']


def test_a_new_stream_leaves_the_others_alone():
    root = rng.root(0, 'train')
    few = rng.streams(root, ('noise',), 3, 0)
    many = rng.streams(root, ('codes', 'noise', 'pool'), 3, 0)
    assert bits(few['noise']) == bits(many['noise'])


def test_nets_have_keys_of_their_own():
    key = rng.root(0, 'init')
    keys = [bits(rng.named(key, net)) for net in ('segmenter', 'painter', 'discriminator')]
    assert len({bits(key), *keys}) == 4
    assert keys[0] == bits(rng.named(rng.root(0, 'init'), 'segmenter'))


def test_keys_are_pinned():
    """Fixes the derivation of keys. A change would alter the meaning of published seeds."""
    key = rng.streams(rng.root(7, 'segmentation', 'train'), ('dropout',), 11, 2)['dropout']
    assert bits(key) == (1757422384, 225541830)


def test_the_keys_of_a_row_depend_on_its_name_alone():
    root = rng.root(0, 'stage', 'predict')
    names = ['a', 'b/c', 'd']
    digests = np.array([rng.name_digest(name) for name in names], np.uint32)
    keys = rng.streams_of_rows(root, ('noise', 'codes'), digests)
    again = rng.streams_of_rows(root, ('noise',), digests[::-1][:2])
    assert bits(keys['noise'][2]) == bits(again['noise'][0])
    assert bits(keys['noise'][1]) == bits(rng.named(rng.named(root, 'noise'), 'b/c'))
    assert len({bits(key) for stream in keys.values() for key in stream}) == 6


def test_the_key_of_an_example_depends_on_its_index_alone():
    key = rng.root(0, 'noise')
    keys = rng.of_examples(key, np.int32([3, 9, 4]))
    again = rng.of_examples(key, np.int32([9]))
    assert bits(keys[1]) == bits(again[0]) == bits(jax.random.fold_in(key, 9))
    assert len({bits(key) for key in keys}) == 3

"""Settings that several config files begin with."""

from collections.abc import Collection, Mapping
from typing import Any

import ml_collections

from segjax.config.arguments import check_choices, parse_arg
from segjax.config.tree import choose, update
from segjax.errors import InputError

OF_VARIANT = -1
"""A number of an argument that the variant sets."""
PORTRAIT_VARIANTS = ('pets', 'photos', 'photos_quick', 'quick', 'smoke')
"""Variants of images from conditions."""
PORTRAIT_CHOICES = {'world': ('', 'faces', 'heads'), 'features': ('', 'load', 'random')}
"""Values of arguments of images from conditions. '': as the variant sets it."""
PORTRAIT_WORLDS = {'': 'faces', 'pets': 'heads', 'photos': 'faces', 'photos_quick': 'faces'}
"""Worlds of the variants of images from conditions that have a data set of their own."""


def smoke(config: ml_collections.ConfigDict) -> None:
    """Sets the values that all `:smoke` variants share: four steps on a few small images.

    The images show `streets`. The run logs, evaluates, saves and writes its report.
    """
    update(
        config,
        augment=dict(resize=(), crop=(32, 64)),
        data=dict(
            name='streets',
            eval_size=(32, 64),
            threads=1,
            world=dict(num_train=16, num_val=10, size=(32, 64)),
        ),
        train=dict(batch_size=8, num_steps=4),
        evaluate=dict(batch_size=8),
        logging=dict(log_every=1, eval_every=2, checkpoint_every=2, num_pictures=1),
    )


def portrait_args(
    file: str, arg: str, choices: Mapping[str, Collection[str]] = {}, **further: Any
) -> ml_collections.ConfigDict:
    """Parses the arguments of a config file of images from conditions.

    Args:
      file: path of the config file.
      arg: the text behind its colon.
      choices: known values of further arguments, as in `check_choices`.
      **further: arguments in addition to world, features and steps, as in `parse_arg`.

    Raises:
      InputError: a wrong argument.
    """
    shared = dict(world='', features='', steps=OF_VARIANT)
    args = parse_arg(arg, variants=PORTRAIT_VARIANTS, **shared, **further)
    check_choices(file, args, {**PORTRAIT_CHOICES, **choices})
    return args


def portraits(config: ml_collections.ConfigDict) -> None:
    """Sets faces of LFW at 128x128 that are drawn from landmarks, and a landmark net."""
    update(
        config,
        data=dict(name='lfw', eval_size=(128, 128)),
        augment=dict(resize=(128, 128), crop=(128, 128), flip=0.5),
        evaluate=dict(batch_size=8),
        landmarks=dict(use='train', num_steps=20_000),
        logging=dict(log_every=100),
    )


def small_portraits(config: ml_collections.ConfigDict) -> None:
    """Sets a folder of faces at 64x64, a narrow landmark net, and VGG16."""
    update(
        config,
        data=dict(name='landmark_folder', eval_size=(64, 64)),
        augment=dict(resize=(64, 64), crop=(64, 64)),
        condition=dict(sigma=1.0),
        train=dict(batch_size=8, num_steps=2000),
        landmarks=dict(
            num_steps=600,
            batch_size=16,
            model=dict(width=0.5),
            optim=dict(name='adam', learning_rate=2e-3, schedule='cosine'),
        ),
        logging=dict(log_every=50, eval_every=1000, checkpoint_every=1000),
    )
    choose(config, 'features.model', 'vgg16')


def smaller_portraits(config: ml_collections.ConfigDict) -> None:
    """Sets images of 48x48 and 600 steps, after `small_portraits`."""
    update(
        config,
        data=dict(eval_size=(48, 48)),
        augment=dict(resize=(48, 48), crop=(48, 48)),
        train=dict(batch_size=4, num_steps=600),
        landmarks=dict(num_steps=400),
        logging=dict(log_every=50, eval_every=600, checkpoint_every=300),
    )


def rendered_portraits(config: ml_collections.ConfigDict) -> None:
    """Sets the world `faces` and a narrow VGG16 of random weights, after `small_portraits`."""
    update(
        config,
        data=dict(name='faces', world=dict(num_train=1000, num_val=64, size=(64, 64))),
        features=dict(use='random', model=dict(width=0.25)),
        train=dict(num_steps=600),
        landmarks=dict(num_steps=300),
        logging=dict(log_every=20, eval_every=300, checkpoint_every=300, num_pictures=4),
    )


def smoke_portraits(config: ml_collections.ConfigDict) -> None:
    """Sets the values of `smoke` for images of 32x32 that are drawn from conditions."""
    smoke(config)
    choose(config, 'features.model', 'vgg16')
    update(
        config,
        data=dict(name='faces', eval_size=(32, 32), world=dict(size=(32, 32))),
        augment=dict(resize=(32, 32), crop=(32, 32)),
        condition=dict(sigma=1.0),
        features=dict(use='random', model=dict(width=0.1)),
        landmarks=dict(num_steps=2, batch_size=8, model=dict(width=0.25, blocks=(0, 0, 0, 0))),
        normals=dict(model=dict(width=0.25, blocks=(0, 0, 0, 0))),
    )


def condition_on_normals(config: ml_collections.ConfigDict) -> None:
    """Sets normal maps as conditions, and a normal net with the steps of the landmark net."""
    update(
        config,
        condition=dict(name='normals'),
        landmarks=dict(use='none'),
        normals=dict(use='train', num_steps=config.landmarks.num_steps),
    )


def set_portrait_args(config: ml_collections.ConfigDict, file: str, args: Any) -> None:
    """Sets the world, the features and the steps of images from conditions.

    The worlds are faces from landmarks, and heads from normal maps.

    Args:
      config: with the settings of the variant.
      file: path of the config file.
      args: from `portrait_args`.

    Raises:
      InputError: another world than that of the variant's data set.
    """
    own = PORTRAIT_WORLDS.get(args.variant)
    if own and args.world not in ('', own):
        raise InputError(
            f'--config {file}:...,world=',
            got=f'{args.world!r} with the variant {args.variant!r}',
            expected=f'{own!r}, or the variants quick and smoke',
        )
    if not own and args.world == 'heads':
        config.data.name = 'heads'
        condition_on_normals(config)
    if args.features:
        config.features.use = args.features
    if args.steps != OF_VARIANT:
        config.train.num_steps = args.steps

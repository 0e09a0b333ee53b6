"""Settings that several config files begin with."""

import ml_collections

from segjax.config.tree import choose, update


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


def small_portraits(config: ml_collections.ConfigDict) -> None:
    """Sets images of 64x64 that are drawn from conditions, a narrow landmark net, and VGG16."""
    update(
        config,
        data=dict(eval_size=(64, 64)),
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
    """Sets images of 48x48 and 600 steps on a folder of faces, after `small_portraits`."""
    update(
        config,
        data=dict(eval_size=(48, 48)),
        augment=dict(resize=(48, 48), crop=(48, 48)),
        train=dict(batch_size=4, num_steps=600),
        landmarks=dict(num_steps=400),
        logging=dict(log_every=50, eval_every=600, checkpoint_every=300),
    )


def rendered_portraits(config: ml_collections.ConfigDict) -> None:
    """Sets the world `faces`, and a narrow VGG16 with random weights."""
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
        landmarks=dict(num_steps=2, batch_size=8, model=dict(width=0.25)),
    )


def condition_on_normals(config: ml_collections.ConfigDict) -> None:
    """Sets normal maps as conditions, and a normal net with the steps of the landmark net."""
    update(
        config,
        condition=dict(name='normals'),
        landmarks=dict(use='none'),
        normals=dict(use='train', num_steps=config.landmarks.num_steps),
    )

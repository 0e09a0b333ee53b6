"""Folders of saved posteriors whose leak is known."""

import numpy as np

CLASSES = 3


def posteriors_of(loss, label):
    """Returns posteriors [H, W, C] with a loss at every pixel. The further classes are alike."""
    truth = np.exp(-loss)
    rest = (1 - truth) / (CLASSES - 1)
    label = np.where(label < CLASSES, label, 0)
    return np.where(label[..., None] == np.arange(CLASSES), truth, rest).astype(np.float32)


def save(folder, name, posteriors, label, **more):
    """Saves the file of an image."""
    path = folder / f'{name}.npz'
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, posteriors=posteriors, label=label, **more)


def save_all(root, losses, names=(), seed=0):
    """Saves root/posteriors with an image for each loss, and root/members.csv.

    Every second image is a member. Labels are random, with the same distribution for all images.
    """
    generator = np.random.default_rng(seed)
    names = names or [f'img_{i:04d}' for i in range(len(losses))]
    lines = ['name,member']
    for i, (image, loss) in enumerate(zip(names, losses, strict=True)):
        label = generator.integers(0, CLASSES, (6, 8))
        label[0] = 255
        save(root / 'posteriors', image, posteriors_of(loss, label), label.astype(np.uint8))
        lines.append(f'{image},{int(i % 2 == 0)}')
    root.mkdir(parents=True, exist_ok=True)
    (root / 'members.csv').write_text('\n'.join(lines) + '\n')
    return root

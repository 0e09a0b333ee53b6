"""The images of an attack on membership: whole lists, and the images of the adversary.

Source: He, thesis, Secs. 7.2 and 7.4.1.
"""

import zlib
from typing import NamedTuple

import ml_collections

from segjax.errors import InputError
from segjax.protocol import Input
from segjax.spec import DataSpec


class Pool(NamedTuple):
    """The images of the adversary.

    data          config section of their data set
    spec          of the data set
    split         all images
    num_images    N
    num_members   images on which the shadow trains. They are the first of A2
    is_queried    whether the victim chooses the members (A1)
    excludes      splits of the victim in the same data set, which have none of the images
    """

    data: str
    spec: DataSpec
    split: str
    num_images: int
    num_members: int
    is_queried: bool
    excludes: tuple[str, ...]

    def queries(self, config: ml_collections.ConfigDict) -> Input:
        """Returns the images, whole. None of them is an image of the victim."""
        return query_input(config, self.split, self.data, self.excludes)


def make_pool(config: ml_collections.ConfigDict, spec: DataSpec, shadow_data: DataSpec) -> Pool:
    """Returns the images of the adversary.

    Raises:
      InputError: an unknown list, or a data set of A2 with other classes than the victim's or with
        the victim's images.
    """
    # A loaded attacker needs no images.
    if config.attacker.use == 'load' and not config.references.count:
        return Pool('data', spec, '', 0, 0, is_queried=False, excludes=())
    is_queried = config.shadow.adversary == 'dependent'
    own = spec if is_queried else shadow_data
    if not is_queried:
        check_other_images(config)
    if own.classes.names != spec.classes.names:
        raise InputError(
            'config.shadow_data.class_map',
            got=f'{own.classes.num_classes} classes of {own.name!r}: '
            f'{", ".join(own.classes.names[:3])}, ..',
            expected=f'the {spec.classes.num_classes} classes of {spec.name!r}, in their order',
            fix='--config.shadow_data.class_map=cityscapes for Mapillary Vistas, or the path of a '
            'file with the merge',
        )
    members = config.shadow.members
    rest = config.shadow.non_members
    data = 'data' if is_queried else 'shadow_data'
    num_members = size_of_list('shadow.members', members, own, data)
    num_rest = size_of_list('shadow.non_members', rest, own, data)

    # A section without a name is the data set of the victim.
    is_own = not is_queried and config.shadow_data.name
    return Pool(
        data=data,
        spec=own,
        split=f'{members}+{rest}',
        num_images=num_members + num_rest,
        num_members=num_members,
        is_queried=is_queried,
        excludes=() if is_own else (config.data.train_split, config.data.eval_split),
    )


def check_other_images(config: ml_collections.ConfigDict) -> None:
    """Raises InputError if A2 has the victim's data set, with lists that cannot be compared.

    Without a name, `shadow_data` is `data` with its lists. Then common images are refused.
    """
    section = config.shadow_data
    same = ('name', 'root', 'world')
    if not section.name or any(section[key] != config.data[key] for key in same):
        return
    raise InputError(
        'config.shadow_data.name',
        got=f'{section.name!r} with root and world of config.data: the images of the victim',
        expected='another data set, another world, or the lists of config.data',
        fix='--config.shadow_data.name= takes config.data with its lists; '
        f'or --config.shadow_data.world.seed={section.world.seed + 1}',
    )


def size_of_list(key: str, split: str, spec: DataSpec, data: str = 'data') -> int:
    """Returns the number of examples of a split.

    Args:
      key: of the split in the config.
      split: its name.
      spec: of its data set.
      data: config section of its data set.

    Raises:
      InputError: an unknown split, or a slice, whose size a specification does not have.
    """
    if '[' in split:
        plain = split.partition('[')[0]
        raise InputError(
            f'config.{key}',
            got=f'the slice {split!r}',
            expected=f'a whole split, or a list of config.{data}.lists',
            fix=f'--config.{data}.lists="(\'members={plain}:draw(100)\',)" --config.{key}=members',
        )
    return spec.split(split).num_examples


def fingerprint(spec: DataSpec, split: str) -> int:
    """Returns 32 bits of the numbers of a split: examples, and pixels of each class."""
    numbers = spec.part(split)
    return zlib.crc32(f'{numbers.num_examples} {numbers.class_pixels}'.encode())


def query_input(
    config: ml_collections.ConfigDict,
    split: str,
    data: str = 'data',
    excludes: tuple[str, ...] = (),
) -> Input:
    """Returns whole images that a net is queried with, in order.

    Args:
      config: of the run.
      split: of the images.
      data: config section of their data set.
      excludes: splits that have none of the images.
    """
    return Input(
        split=split,
        batch_size=config.evaluate.batch_size,
        features=('image', 'label'),
        size=tuple(config.data.eval_size),
        data=data,
        excludes=excludes,
    )

"""Derived features: values that a function of the pipeline computes once from prepared records.

The values of a feature on a plain split are array records of their own, with the guarantees of all
records (segjax/data/records.py). Their folder `{records}+{feature}.{split}-{fingerprint}` is next
to the records. segjax/data/computation.py computes them.
"""

import dataclasses
import difflib
import hashlib
import json
import pathlib
import pickle
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from segjax.core import files
from segjax.data import class_maps, clips, index, kinds, records
from segjax.data.cache import DERIVED
from segjax.data.class_maps import Relabelled
from segjax.data.joined import Joined
from segjax.data.records import SplitSource
from segjax.errors import InputError, first_line, unknown_name
from segjax.protocol import Derived, Input, TableFrames
from segjax.spec import ClassMap, DataSpec, split_names

FORMAT = 1
"""Version of the computation, a part of the fingerprint."""


# --- what values depend on ------------------------------------------------------------------------


def recipes(features: Sequence[Derived]) -> dict[str, str]:
    """Returns 16 hexadecimal digits for each feature, for everything but the examples.

    They are a hash of all fields except `compute`, `data` and `lazy`, and of the derived features
    that the feature reads. Values of all examples keep the digits that they had before other
    choices existed.

    Args:
      features: of a data set. A feature may read features before it.
    """
    made: dict[str, str] = {}
    for feature in features:
        fields = feature._asdict()
        del fields['compute']
        del fields['data']
        del fields['lazy']
        if feature.examples == 'all':
            del fields['examples']
        read = {name: made[name] for name in stored_names(feature.reads) if name in made}
        made[feature.name] = _hash([FORMAT, files.to_json(fields), read])
    return made


def _hash(content: list) -> str:
    """Returns 16 hexadecimal digits for JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def stored_names(features: Iterable[str]) -> tuple[str, ...]:
    """Returns the names under which features are stored, once: 'flow' for 'flow_frames'."""
    return tuple(dict.fromkeys(name.removesuffix(clips.SUFFIX) for name in features))


def names_read(inputs: Input) -> tuple[str, ...]:
    """Returns the names of the stored features that an input reads, with its tables."""
    names = list(inputs.stored)
    if inputs.each:
        names.append(inputs.each)
    if isinstance(inputs.frames, TableFrames):
        names.append(inputs.frames.table)
        # No record has the presence of drawn neighbours.
        if inputs.frames.drawn and kinds.PRESENT in names:
            names.remove(kinds.PRESENT)
    return stored_names(names)


def promised(spec: DataSpec, features: Sequence[Derived]) -> DataSpec:
    """Returns a specification with derived features, computed or not.

    Args:
      spec: of the data set. Derived features that it has are replaced.
      features: the derived features of the data set.

    Raises:
      InputError: a `Derived` that contradicts the data set.
    """
    if not features and not spec.derived:
        return spec
    spec = without_derived(spec)
    check(features, spec)
    names = tuple(feature.name for feature in features)
    declared = {feature.name: feature.feature for feature in features}
    return dataclasses.replace(
        spec,
        features=(*spec.features, *names),
        declared={**spec.declared, **declared},
        derived=recipes(features),
    )


def without_derived(spec: DataSpec) -> DataSpec:
    """Returns the specification of the records alone."""
    declared = {key: value for key, value in spec.declared.items() if key not in spec.derived}
    features = tuple(name for name in spec.features if name not in spec.derived)
    return dataclasses.replace(spec, features=features, declared=declared, derived={})


def check(features: Sequence[Derived], spec: DataSpec) -> None:
    """Raises InputError for a `Derived` that contradicts the data set or the contract.

    Args:
      features: the derived features of the data set.
      spec: of the records alone.
    """
    known = list(spec.features)
    for feature in features:
        where = f'derived feature {feature.name!r} of data set {spec.name!r}'
        _check_name(feature, known, where)
        _check_reads(feature, known, spec, where)
        if feature.examples not in index.CHOICES:
            raise unknown_name(f'examples of {where}', feature.examples, index.CHOICES)
        _check_choices(feature, features, where)
        kinds.feature_of(feature.name, {feature.name: feature.feature})
        try:
            json.dumps(files.to_json(feature.settings))
            pickle.dumps(feature.compute)
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            expected = 'settings of JSON, and a function of a module or a functools.partial of one'
            raise InputError(where, got=first_line(error), expected=expected) from error
        known.append(feature.name)


ABSENT = {
    'instance': "add files of instances (data set 'folder': folder instances next to masks), "
    'or take a data set that has them, as --config.data.name=streets'
}
"""Fixes for data sets without a feature that a derived feature reads."""


def _check_name(feature: Derived, known: Sequence[str], where: str) -> None:
    """Raises InputError for a name that another feature has, or that names no file."""
    name = feature.name
    if name in known:
        got = 'the name of a feature that the data set has'
        raise InputError(where, got=got, expected=f'none of {", ".join(known)}')
    if not name.isidentifier() or name.endswith(clips.SUFFIX):
        expected = f'letters, digits and _, and not {clips.SUFFIX} at the end'
        raise InputError(where, got=repr(name), expected=expected)


def _check_reads(feature: Derived, known: Sequence[str], spec: DataSpec, where: str) -> None:
    """Raises InputError for unknown `reads`, absent labels, or `frames` that do not fit."""
    for name in stored_names(feature.reads):
        if name == class_maps.LABEL:
            spec.check_labels(where, feature.data)
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
            fix = f'did you mean {near[0]!r}?' if near else ABSENT.get(name, '')
            raise InputError(
                where,
                got=f'it reads {name!r}, but the data set has {", ".join(known)}',
                expected='features of the data set, or features that are derived before',
                fix=fix,
            )
    reads_neighbours = any(name.endswith(clips.SUFFIX) for name in feature.reads)
    if reads_neighbours != bool(feature.frames):
        got = f'reads {feature.reads} and frames {feature.frames}'
        raise InputError(where, got=got, expected="frames if and only if it reads an 'x_frames'")


def _check_choices(feature: Derived, features: Sequence[Derived], where: str) -> None:
    """Raises InputError for a feature that reads values of examples that have none.

    Args:
      feature: that reads.
      features: of the data set.
      where: names the feature in errors.
    """
    choices = {each.name: each.examples for each in features}
    for key in feature.reads:
        name = key.removesuffix(clips.SUFFIX)
        choice = choices.get(name, 'all')
        if choice != 'all' and (key != name or choice != feature.examples):
            got = f'it reads {key!r}, but only the {choice} examples have {name!r}'
            expected = f'examples={choice!r}, and no neighbours of this feature'
            raise InputError(where, got=got, expected=expected)


def check_read(inputs: Input, features: Sequence[Derived], where: str) -> None:
    """Raises InputError for an input of examples for which a feature has no value.

    Args:
      inputs: an input of a stage.
      features: the derived features of its data set.
      where: the name of the data set in errors.
    """
    for feature in features:
        if feature.examples == 'all' or feature.name not in names_read(inputs):
            continue
        of_neighbours = feature.name + clips.SUFFIX in inputs.stored
        if of_neighbours or inputs.examples != feature.examples:
            of = ' of neighbours' if of_neighbours else ''
            raise InputError(
                f'input of split {inputs.split!r} of {where}',
                got=f'examples={inputs.examples!r}, and the feature {feature.name!r}{of}, '
                f'which only the {feature.examples} examples have',
                expected=f'Input(examples={feature.examples!r}), without {clips.SUFFIX} of it',
            )


# --- stored values --------------------------------------------------------------------------------


class Store(NamedTuple):
    """Prepared records with their derived features, in the classes of a config section.

    records    folder of the records
    where      the name of the data set in errors
    features   the derived features of the data set, in the order of `make_features`
    class_map  of the config section; None: the classes of the records
    """

    records: pathlib.Path
    where: str
    features: tuple[Derived, ...]
    class_map: ClassMap | None = None

    def folder(self, name: str, split: str) -> pathlib.Path:
        """Returns the folder of a feature on a plain split.

        The fingerprint holds the records, the split and the recipe of the feature. It also holds
        the class map, if the feature depends on labels.
        """
        content = [self.records.name, split, recipes(self.features)[name]]
        if self.class_map is not None and self._depends_on_labels(name):
            content.append(list(self.class_map.train_ids))
        fingerprint = _hash(content)
        return self.records.with_name(f'{self.records.name}{DERIVED}{name}.{split}-{fingerprint}')

    def place(self, name: str, split: str) -> pathlib.Path:
        """Returns the folder that holds a feature of a plain split: its own, or the records."""
        is_derived = any(name == feature.name for feature in self.features)
        return self.folder(name, split) if is_derived else self.records

    def _depends_on_labels(self, name: str) -> bool:
        """Returns whether labels change a feature, or features that it reads."""
        reads = {name}
        for feature in reversed(self.features):
            if feature.name in reads:
                reads.update(stored_names(feature.reads))
                if feature.examples != 'all':
                    reads.add(class_maps.LABEL)
        return class_maps.LABEL in reads

    def chosen(self, feature: Derived, split: str) -> np.ndarray:
        """Returns the positions [n] of the examples of a plain split that get a value, ascending.

        They do not depend on the lists of the config section.
        """
        facts = index.of_split(self.records, split)
        # An older index, in a folder that cannot be written, has no pixels of each class.
        if self.class_map is not None and feature.examples != 'all':
            facts = index.merged(facts, self.class_map)
        return index.positions(facts, feature.examples)

    def open_split(self, split: str, features: Sequence[str]) -> SplitSource | Relabelled | Joined:
        """Opens a split with features of the records and derived features.

        Args:
          split: a TFDS split: 'train', 'val[:10%]', 'train+val'.
          features: keys of the examples.

        Raises:
          InputError: an unknown or empty split, or an unknown feature. Derived values that are not
            computed raise it at the first example.
        """
        if not self.features:
            return self._open_records(split, features)
        declared = {each.name: each.feature for each in self.features}
        info = index.open_records(self.records).info

        # An error lists the derived features too.
        for name in features:
            if name not in info.features and name not in declared:
                where = f'feature {name!r} of {self.where}'
                raise unknown_name(where, name, (*info.features, *declared))
        own = [name for name in features if name not in declared]
        source = self._open_records(split, own)

        # Each slice of the split has its own folder.
        counts = {name: info.splits[name].num_examples for name in info.splits}
        slices = index.slices(split, counts)
        folders = {}
        for name in features:
            if name in declared:
                folders[name] = [self.folder(name, part.split) for part in slices]
        return Joined(source, features, slices, folders, declared, self.where)

    def column(
        self, split: str, feature: str, positions: Sequence[int] | None = None
    ) -> np.ndarray:
        """Returns a feature of the examples of a split, [N, ...]. No other feature is read.

        Args:
          split: a TFDS split: 'train', 'val[:10%]', 'train+val'.
          feature: of the records or derived, but not 'label', whose classes may be merged.
          positions: of the examples, in order. None: all.

        Raises:
          InputError: an unknown feature, or derived values that are not computed.
        """
        splits = index.open_records(self.records).info.splits
        counts = {name: splits[name].num_examples for name in splits}
        parts = []
        for name, first, end in index.slices(split, counts):
            values = records.column(self.place(feature, name), name, feature, self.where)
            parts.append(values[first:end])
        values = np.concatenate(parts)
        return values if positions is None else values[np.asarray(positions, np.int64)]

    def _open_records(self, split: str, features: Sequence[str]) -> SplitSource | Relabelled:
        """Opens features of the records, with the classes of the config section."""
        source = SplitSource(self.records, split, features, self.where)
        if self.class_map is None or class_maps.LABEL not in features:
            return source
        return Relabelled(source, class_maps.table(self.class_map))

    def needed(self, inputs: Iterable[Input]) -> list[tuple[Derived, str]]:
        """Returns the (feature, plain split) pairs that inputs read, in the order of computing.

        A slice of a split needs the values of the whole split.

        Args:
          inputs: of this data set.
        """
        read: dict[str, set[str]] = {}
        for each in inputs:
            for split in split_names(each.split):
                read.setdefault(split, set()).update(names_read(each))

        # A feature that is read needs the features that it reads. They come before it.
        pairs = []
        for feature in reversed(self.features):
            for split in reversed(read):
                if feature.name in read[split]:
                    read[split].update(stored_names(feature.reads))
                    pairs.append((feature, split))
        return pairs[::-1]

    def missing(self, inputs: Iterable[Input]) -> list[tuple[Derived, str]]:
        """Returns the pairs of `needed` whose values are not stored, or damaged."""
        missing = []
        for feature, split in self.needed(inputs):
            if not records.is_ready(self.folder(feature.name, split)):
                missing.append((feature, split))
        return missing

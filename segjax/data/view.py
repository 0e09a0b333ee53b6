"""A data set as a config section sees it: merged classes, and lists of examples as splits.

Records do not depend on the section. A view describes and chooses their examples from the facts of
their index.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from segjax.data import class_maps, example_lists, index
from segjax.data.example_lists import ExampleList
from segjax.data.index import Index
from segjax.errors import InputError
from segjax.protocol import Input
from segjax.spec import ClassMap, DataSpec, Merge, PartSpec, split_names


class Choice(NamedTuple):
    """The examples of an input.

    split      the plain splits, slices and sums that the records have
    positions  of the examples in this split, in order. None: all
    """

    split: str
    positions: tuple[int, ...] | None


@dataclasses.dataclass(frozen=True)
class View:
    """The examples of a data set with the class map and the lists of a config section.

    where      the name of the data set in errors
    counts     number of examples of each split of the records
    own        plain split of the records -> its index, with the classes of the records
    class_map  of the section; None: the classes of the records
    lists      of the section, by the name of the split
    """

    where: str
    counts: Mapping[str, int]
    own: Callable[[str], Index]
    class_map: ClassMap | None = None
    lists: Mapping[str, ExampleList] = dataclasses.field(default_factory=dict)

    def facts(self, split: str) -> Index:
        """Returns the index of any split, with the merged classes.

        Raises:
          InputError: an unknown, malformed or empty split.
        """
        self.slices(split)
        return index.select(split, self._all_counts(), self._of_split)

    def records(self, split: str) -> Index:
        """Returns the index of a split of the records, with the classes of the records.

        Args:
          split: plain splits of the records, their slices and sums.
        """
        self.slices(split)
        return index.select(split, self.counts, self.own)

    def slices(self, split: str) -> list[index.Slice]:
        """Returns the slices of plain splits and of lists that a split consists of.

        Raises:
          InputError: an unknown, malformed or empty split.
        """
        where = f'split {split!r} of {self.where}'
        counts = self._all_counts()
        known = ', '.join(counts)
        expected = f'one of {known}; also slices and sums, as train[:10%] or train+val'
        for name in split_names(split):
            if name not in counts:
                raise InputError(where, got=f'no split {name!r}', expected=expected)
        try:
            slices = index.slices(split, counts)
        except ValueError as error:
            reason = str(error).splitlines()[-1]
            raise InputError(where, got=reason, expected=expected) from error
        if not any(part.first < part.end for part in slices):
            raise InputError(where, got='no examples', expected='at least one')
        return slices

    def in_records(self, split: str) -> Choice:
        """Returns the place of the examples of a split in the splits of the records."""
        slices = self.slices(split) if self.lists else []
        if not any(part.split in self.lists for part in slices):
            return Choice(split, None)

        # Lists are positions in splits of the records, which follow each other in the sum.
        names: dict[str, int] = {}
        num_examples = 0
        for part in slices:
            of_list = self.lists.get(part.split)
            for name in of_list.split.split('+') if of_list else [part.split]:
                if name not in names:
                    names[name] = num_examples
                    num_examples += self.counts[name]
        positions: list[int] = []
        for name, first, end in slices:
            positions += self._places(name, names)[first:end]
        return Choice('+'.join(names), tuple(positions))

    def choose(self, inputs: Input, positions: np.ndarray | None = None) -> Choice:
        """Returns the examples that an input chooses.

        First `inputs.examples` chooses, then `positions`. `inputs.part` is a part of the result.

        Args:
          inputs: an input of a stage.
          positions: in the split, the array of `inputs.chosen`. None: no further choice.

        Raises:
          InputError: no example is chosen, a position outside the split, or an example of a split
            that the input excludes.
        """
        self.check_disjoint(inputs.split, inputs.excludes)
        split, order = self.in_records(inputs.split)
        if inputs.examples == 'all' and positions is None:
            return Choice(split, order)

        # A choice of everything is no choice: the source stays as plain as it can be.
        facts = self.facts(inputs.split)
        num_examples = len(facts.frame)
        kept = index.positions(facts, inputs.examples)
        if len(kept) == 0:
            raise self._no_example(inputs, num_examples)
        if positions is not None:
            kept = _among(positions, kept, num_examples, inputs)
        elif len(kept) == num_examples:
            return Choice(split, order)
        places = kept.tolist()
        return Choice(split, tuple(places if order is None else (order[i] for i in places)))

    def check_disjoint(self, split: str, others: Sequence[str]) -> None:
        """Checks that a split shares no example with other splits.

        Next to such splits, a sum of lists has each example once.

        Args:
          split: a TFDS split, of the records or of lists.
          others: splits of the same kind.

        Raises:
          InputError: a common or a repeated example, or an unknown, malformed or empty split.
        """
        if others:
            self._check_once(split)
        for other in others:
            shared = set(self._numbers(other))
            common = [i for i, number in enumerate(self._numbers(split)) if number in shared]
            if common:
                names = self.facts(split).name[common[:3]].tolist()
                shown = ', '.join(names) + (', ...' if len(common) > 3 else '')
                fix = 'remove them from one of the lists of config.data.lists'
                if other == split:
                    fix = f'another split in place of {split!r}, which two keys name'
                raise InputError(
                    f'split {split!r} of {self.where}',
                    got=f'{len(common)} examples that {other!r} has too: {shown}',
                    expected=f'no common example: {split!r} excludes {other!r}',
                    fix=fix,
                )

    def _check_once(self, split: str) -> None:
        """Raises InputError for an example that a sum of splits has twice."""
        numbers = np.array(self._numbers(split))
        values, first = np.unique(numbers, return_index=True)
        again = np.setdiff1d(np.arange(len(numbers)), first)
        if len(values) < len(numbers):
            name = self.facts(split).name[again[0]]
            raise InputError(
                f'split {split!r} of {self.where}',
                got=f'{len(again)} examples twice, the first is {name}',
                expected='every example in one of its parts',
                fix='remove them from one of the lists of config.data.lists',
            )

    def _numbers(self, split: str) -> list[int]:
        """Returns a number for each example of a split, its place among all records."""
        starts: dict[str, int] = {}
        num_examples = 0
        for name, count in self.counts.items():
            starts[name] = num_examples
            num_examples += count
        numbers: list[int] = []
        for name, first, end in self.slices(split):
            numbers += self._places(name, starts)[first:end]
        return numbers

    def part(self, split: str, part: tuple[float, float]) -> PartSpec:
        """Counts the labelled examples in a part of a split.

        Args:
          split: a TFDS split.
          part: `Input.part`.

        Raises:
          InputError: an unknown, malformed or empty split, or an index without these numbers.
        """
        facts = self.facts(split)
        labelled = index.taken(facts, index.positions(facts, 'labelled'))
        num_labelled = len(labelled.frame)
        bounds = Input(split, 1, (), (1, 1), part=part).bounds(num_labelled)
        chosen = index.taken(labelled, index.part_positions(num_labelled, *bounds))
        self.check_complete(facts)
        return PartSpec(
            split=split,
            part=tuple(part),
            num_examples=len(chosen.frame),
            class_pixels=tuple(chosen.class_pixels.sum(axis=0, dtype=np.int64).tolist()),
            void_pixels=int(chosen.void_pixels.sum()),
        )

    def described(self, spec: DataSpec) -> DataSpec:
        """Returns the specification of the records with the merged classes and the lists."""
        if self.class_map is None and not self.lists:
            return spec

        # All numbers follow from the index. Only the largest size of a split stays as it is.
        classes = self.class_map.classes if self.class_map else spec.classes
        indices = {split: self._of_split(split) for split in (*self.counts, *self.lists)}
        max_size = dict(spec.max_size)
        class_pixels = {}
        void_pixels = {}
        for split, facts in indices.items():
            self.check_complete(facts)
            if split in self.lists:
                max_size[split] = tuple(facts.size.max(axis=0).tolist())
            class_pixels[split] = tuple(facts.class_pixels.sum(axis=0, dtype=np.int64).tolist())
            void_pixels[split] = int(facts.void_pixels.sum())
        return dataclasses.replace(
            spec,
            classes=classes,
            num_examples={split: len(facts.frame) for split, facts in indices.items()},
            max_size=max_size,
            class_pixels=class_pixels,
            void_pixels=void_pixels,
            class_maps={} if self.class_map else spec.class_maps,
            merge=Merge(spec.classes, self.class_map.train_ids) if self.class_map else None,
            **index.spec_fields(indices),
        )

    def check_complete(self, facts: Index) -> None:
        """Raises InputError for the index of older records that could not be completed."""
        if facts.size.shape[1] == 0:
            raise InputError(
                f'{index.FILE} of {self.where}',
                got='an index without the pixels and names of examples, '
                'in a folder that cannot be written to',
                expected='an index that this process may complete',
                fix='--config.data.cache=/some/folder, to prepare the data set again',
            )

    def _all_counts(self) -> dict[str, int]:
        """Returns the number of examples of each split and of each list."""
        of_lists = {name: len(each.positions) for name, each in self.lists.items()}
        return {**self.counts, **of_lists}

    def _of_split(self, name: str) -> Index:
        """Returns the index of a plain split or of a list, with the merged classes."""
        facts = self._own(name)
        if self.class_map is None:
            return facts
        self.check_complete(facts)
        return index.merged(facts, self.class_map)

    def _own(self, name: str) -> Index:
        """Returns the index of a plain split or of a list, with the classes of the records."""
        if name not in self.lists:
            return self.own(name)
        split, positions = self.lists[name]
        return index.taken(index.select(split, self.counts, self.own), positions)

    def _places(self, name: str, starts: Mapping[str, int]) -> list[int]:
        """Returns the places of the examples of a split, or of a list, in a sum of splits.

        Args:
          name: of the split or list.
          starts: place of the first example of each plain split in the sum.
        """
        if name not in self.lists:
            return list(range(starts[name], starts[name] + self.counts[name]))
        split, positions = self.lists[name]
        places: list[int] = []
        for plain in split.split('+'):
            places += self._places(plain, starts)
        return [places[position] for position in positions]

    def _no_example(self, inputs: Input, num_examples: int) -> InputError:
        """Returns the error for a split without chosen examples. It lists splits that have some."""
        where = f'split {inputs.split!r} of {self.where}'
        facts = self.facts(inputs.split)
        # An older index has no pixels of classes and no sizes.
        if facts.size.shape[1] and not facts.class_pixels.shape[1]:
            return InputError(
                where,
                got=f'examples={inputs.examples!r}, but the data set has no labels',
                expected="examples='all', or a data set with classes",
            )
        labelled = []
        for split in self._all_counts():
            count = int(index.is_labelled(self._of_split(split)).sum())
            if count:
                labelled.append(f'{split} ({count})')
        splits = ', '.join(labelled) or 'none'
        return InputError(
            where,
            got=f'no {inputs.examples} example among its {num_examples}',
            expected=f'at least one; splits with labelled examples: {splits}',
        )


def _among(positions: np.ndarray, kept: np.ndarray, num_examples: int, inputs: Input) -> np.ndarray:
    """Returns the positions of an earlier stage that `inputs.examples` keeps, in their order.

    Args:
      positions: the array of the product.
      kept: positions that `inputs.examples` chooses.
      num_examples: of the split.
      inputs: names split and product.

    Raises:
      InputError: no vector of positions in the split, or no position is kept.
    """
    product = inputs.chosen
    where = f'product {product.name!r} of stage {product.stage!r}' if product else 'positions'
    expected = f'positions of the {num_examples} examples of split {inputs.split!r}'
    if positions.ndim != 1 or positions.dtype.kind not in 'iu':
        raise InputError(where, got=f'{positions.dtype}{list(positions.shape)}', expected=expected)
    outside = positions[(positions < 0) | (positions >= num_examples)]
    if len(outside):
        raise InputError(where, got=f'position {outside[0]}', expected=expected)
    chosen = positions[np.isin(positions, kept)]
    if len(chosen) == 0:
        got = f'{len(positions)} positions, none of {inputs.examples} examples'
        raise InputError(where, got=got, expected=f'at least one of the {expected}')
    return chosen


def make_view(
    config: Any,
    where: str,
    spec: DataSpec,
    own: Callable[[str], Index],
) -> View:
    """Builds the view of a data section.

    Args:
      config: the section.
      where: the name of the data set in errors.
      spec: of the records.
      own: plain split of the records -> its index.

    Raises:
      InputError: an unknown class map, or a wrong list.
    """
    counts = spec.num_examples
    plain = View(where, counts, own)

    def facts_of(split: str) -> Index:
        facts = plain.facts(split)
        plain.check_complete(facts)
        return facts

    class_map = class_maps.load(config.class_map, spec.classes, spec.class_maps)
    lists = example_lists.read(config.lists, counts, facts_of, where)
    return View(where, counts, own, class_map, lists)

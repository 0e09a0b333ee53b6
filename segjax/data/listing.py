"""A data set that was read but not prepared: which examples its inputs would have, without any record."""

from collections.abc import Mapping
from typing import NamedTuple

from segjax.data import clips, index
from segjax.errors import InputError, unknown_name
from segjax.protocol import Input
from segjax.spec import DataSpec


class Listing(NamedTuple):
    """Opens inputs as `data.Prepared` does, but gives their numbers of examples alone.

    spec    what the data set consists of
    where   what errors call it
    splits  facts about the examples of each split
    """

    spec: DataSpec
    where: str
    splits: Mapping[str, index.Index]

    def open_input(self, inputs: Input, *more: str) -> range:
        """Returns the positions among the chosen examples of an input.

        Raises:
          InputError: an unknown, malformed or empty split, an absent feature, no chosen example, or
            none with its neighbours.
        """
        for feature in (*inputs.features, *more):
            stored = feature.removesuffix(clips.SUFFIX)
            if stored not in self.spec.features:
                error = unknown_name(f'feature {stored!r}', stored, self.spec.features)
                raise InputError(
                    error.where, got=f'not in {self.where}', expected=error.expected, fix=error.fix
                )
        where = f'split {inputs.split!r} of {self.where}'
        facts = self._facts(inputs.split, where)
        chosen = index.positions(facts, inputs.examples)
        if not len(chosen):
            got = f'no {inputs.examples} example among its {len(facts.frame)}'
            raise InputError(where, got=got, expected='at least one')
        if not inputs.frames:
            return range(len(chosen))
        among = frozenset(chosen.tolist())
        rows = clips.rows(facts.sequence.tolist(), facts.frame.tolist(), inputs.frames)
        complete = [row for row in rows if row.example in among]
        if not complete:
            raise clips.no_neighbours(where, inputs.frames)
        return range(len(complete))

    def _facts(self, split: str, where: str) -> index.Index:
        try:
            facts = index.select(split, self.spec.num_examples, self.splits.__getitem__)
        except ValueError as error:
            expected = f'one of {", ".join(self.splits)}; also slices and sums, as train[:10%] or train+val'
            raise InputError(where, got=str(error).splitlines()[-1], expected=expected) from error
        if not len(facts.frame):
            raise InputError(where, got='no examples', expected='at least one')
        return facts

"""A data set that was read but not prepared: the examples of its inputs, without any record."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from segjax.data import clips, index
from segjax.errors import InputError, unknown_name
from segjax.protocol import Input
from segjax.spec import DataSpec


class Listing(NamedTuple):
    """Opens inputs like `data.Prepared`, but returns only their numbers of examples.

    spec    classes, splits and features of the data set
    where   the name of the data set in errors
    splits  facts about the examples of each split
    """

    spec: DataSpec
    where: str
    splits: Mapping[str, index.Index]

    def open_input(
        self, inputs: Input, *additional: str, positions: np.ndarray | None = None
    ) -> range:
        """Returns the positions among the chosen examples of an input.

        Args:
          inputs: an input of a stage.
          additional: features in addition to `inputs.features`.
          positions: [N] of the examples in the split that `inputs.chosen` names. None: no choice.

        Raises:
          InputError: an unknown, malformed or empty split, or an absent feature. No example is
            chosen, or no chosen example has all its neighbours.
        """
        for feature in (*inputs.features, *additional):
            stored = feature.removesuffix(clips.SUFFIX)
            if stored not in self.spec.features:
                raise unknown_name(
                    f'feature {stored!r} of {self.where}', stored, self.spec.features
                )

        # Examples that `inputs.examples` chooses.
        where = f'split {inputs.split!r} of {self.where}'
        facts = self._facts(inputs.split, where)
        chosen = index.positions(facts, inputs.examples)
        if len(chosen) == 0:
            got = f'no {inputs.examples} example among its {len(facts.frame)}'
            raise InputError(where, got=got, expected='at least one')
        if positions is not None:
            chosen = positions[np.isin(positions, chosen)]
        if not inputs.frames:
            return range(len(chosen))

        # Chosen examples that have all their neighbours.
        among = frozenset(chosen.tolist())
        rows = clips.rows(facts.sequence.tolist(), facts.frame.tolist(), inputs.frames)
        complete = [row for row in rows if row.example in among]
        if not complete:
            raise clips.no_neighbours(where, inputs.frames)
        return range(len(complete))

    def _facts(self, split: str, where: str) -> index.Index:
        """Returns the facts about the examples of a split.

        Raises:
          InputError: an unknown, malformed or empty split.
        """
        try:
            facts = index.select(split, self.spec.num_examples, self.splits.__getitem__)
        except ValueError as error:
            known = ', '.join(self.splits)
            raise InputError(
                where,
                got=str(error).splitlines()[-1],
                expected=f'one of {known}; also slices and sums, as train[:10%] or train+val',
            ) from error
        if len(facts.frame) == 0:
            raise InputError(where, got='no examples', expected='at least one')
        return facts

"""A data set that was read but not prepared: the examples of its inputs, without any record."""

from typing import NamedTuple

import numpy as np

from segjax.data import clips, derived, table_rows
from segjax.data.view import View
from segjax.errors import unknown_name
from segjax.protocol import Input
from segjax.spec import DataSpec


class Listing(NamedTuple):
    """Opens inputs like `data.Prepared`, but returns only their numbers of examples.

    spec    classes, splits and features of the data set
    where   the name of the data set in errors
    view    facts about the examples of each split
    """

    spec: DataSpec
    where: str
    view: View

    def open_input(
        self, inputs: Input, *additional: str, positions: np.ndarray | None = None
    ) -> range:
        """Returns the positions among the chosen examples of an input.

        With `inputs.each` these are its images. The rows may not be computed.

        Args:
          inputs: an input of a stage.
          additional: features in addition to `inputs.stored`.
          positions: the array of `inputs.chosen`; None: no further choice.

        Raises:
          InputError: an unknown, malformed or empty split, or an absent feature. No example is
            chosen, or no chosen example has all its neighbours. `inputs.each` is no table.
        """
        table_rows.check(inputs, self.spec, self.where)
        for stored in (*derived.names_read(inputs), *derived.stored_names(additional)):
            if stored not in self.spec.features:
                raise unknown_name(
                    f'feature {stored!r} of {self.where}', stored, self.spec.features
                )

        # Examples that the input chooses.
        split, chosen = self.view.choose(inputs, positions)
        facts = self.view.records(split)
        if chosen is None:
            chosen = tuple(range(len(facts.frame)))
        if not inputs.frames:
            return range(len(chosen))

        # Chosen examples that have all their neighbours.
        complete = clips.with_neighbours(facts, inputs.frames, chosen)
        if not len(complete):
            where = f'split {inputs.split!r} of {self.where}'
            raise clips.no_neighbours(where, inputs.frames)
        return range(len(complete))

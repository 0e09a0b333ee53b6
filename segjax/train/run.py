"""The type of a run, which all of its stages share."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import ml_collections
import numpy as np

from segjax import pretrained
from segjax.core import parallel
from segjax.errors import unknown_name
from segjax.protocol import Input, PyTree
from segjax.spec import DataSpec, Feature

PRODUCTS = 'products.npz'
"""File in the folder of a stage with the arrays that it hands on."""

Source = pretrained.Weights | Mapping[str, PyTree]
"""Published weights, or {'params': .., 'model_state': ..} of another run."""


class Data(Protocol):
    """A data set that is ready: `data.Prepared`, or `data.listing.Listing` for checks alone."""

    @property
    def spec(self) -> DataSpec:
        """Returns the specification of the data set."""
        ...

    def open_input(self, inputs: Input, *features: str, positions: np.ndarray | None = None) -> Any:
        """Opens the examples of an input, with further features. The result has a length.

        `positions` is the array of `inputs.chosen`.
        """


def no_source() -> None:
    """Stands for the source of a run that starts from random parameters."""
    return None


class Run(NamedTuple):
    """A checked config with its data set, run folder and devices. All stages share it.

    config    valid, with the `preprocess` that the run adopted from published weights
    datasets  by config section: the data sets. 'data' is the main data set
    workdir   the run folder
    topology  the devices
    source    loads the parameters that config.init_from names (initialization.reader)
    """

    config: ml_collections.ConfigDict
    datasets: Mapping[str, Data]
    workdir: pathlib.Path
    topology: parallel.Topology
    source: Callable[[], Source | None] = no_source

    @property
    def spec(self) -> DataSpec:
        """Returns the specification of the main data set."""
        return self.datasets['data'].spec

    @property
    def specs(self) -> dict[str, DataSpec]:
        """Returns the specification of every data set by its config section."""
        return {name: data.spec for name, data in self.datasets.items()}

    def spec_of(self, inputs: Input) -> DataSpec:
        """Returns the specification of the data set that an input reads."""
        return self.data_of(inputs).spec

    def declared(self, inputs: Input) -> dict[str, Feature]:
        """Returns the declared features of the data sets that an input and its unpaired read."""
        features: dict[str, Feature] = {}
        for each in reversed(inputs.with_unpaired()):
            features |= self.spec_of(each).declared
        return features

    def data_of(self, inputs: Input) -> Data:
        """Returns the data set that an input reads.

        Raises:
          InputError: the config has no such data section.
        """
        if inputs.data not in self.datasets:
            raise unknown_name('data set of an input', inputs.data, self.datasets)
        return self.datasets[inputs.data]

    def open_input(self, inputs: Input, *features: str) -> Any:
        """Opens the examples of an input, with further features. The result has a length.

        The examples that an earlier stage chose are known when this stage has finished. Before,
        the input is opened without the choice.

        Raises:
          InputError: an error of `data.Prepared.open_input`, or an unknown data section.
        """
        data = self.data_of(inputs)
        positions = self._chosen(inputs)
        if positions is None:
            return data.open_input(inputs, *features)
        return data.open_input(inputs, *features, positions=positions)

    def _chosen(self, inputs: Input) -> np.ndarray | None:
        """Returns the array that `inputs.chosen` names, None before its stage has written it."""
        if inputs.chosen is None:
            return None
        stage, name = inputs.chosen
        path = self.workdir / stage / PRODUCTS
        if not path.exists():
            return None
        with np.load(path) as arrays:
            if name not in arrays:
                raise unknown_name(f'product of stage {stage!r}', name, arrays)
            return arrays[name]

"""The type of a run, which all of its stages share."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import ml_collections
import numpy as np

from segjax import pretrained
from segjax.core import parallel
from segjax.protocol import Input, Product, PyTree
from segjax.spec import DataSpec
from segjax.train import product_files

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

        Args:
          inputs: an input of a stage.
          *features: in addition to the features of `inputs`.
          positions: of the examples in the split that `Input.chosen` names. None: no choice.
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
    products  {stage: {name: array}}, the arrays that the stages before hand on
    """

    config: ml_collections.ConfigDict
    datasets: Mapping[str, Data]
    workdir: pathlib.Path
    topology: parallel.Topology
    source: Callable[[], Source | None] = no_source
    products: Mapping[str, Mapping[str, np.ndarray]] = {}

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
        return self.datasets[inputs.data].spec

    def open_input(self, inputs: Input, *features: str) -> Any:
        """Opens the examples of an input, with further features. The result has a length.

        Before the stage has run whose array chooses examples, no example is left out.
        """
        data = self.datasets[inputs.data]
        positions = None if inputs.chosen is None else self.product(inputs.chosen)
        if positions is None:
            return data.open_input(inputs, *features)
        return data.open_input(inputs, *features, positions=positions)

    def with_products(self, stage: str, arrays: Mapping[str, np.ndarray]) -> 'Run':
        """Returns the run with the arrays of a finished stage. Most stages have none."""
        if not arrays:
            return self
        return self._replace(products={**self.products, stage: arrays})

    def product(self, product: Product) -> np.ndarray | None:
        """Returns an array of an earlier stage, None before that stage has handed it on."""
        if product.stage in self.products:
            return self.products[product.stage][product.name]
        path = self.workdir / product.stage / product_files.PRODUCTS
        if not path.exists():
            return None
        return product_files.decode(path, path.read_bytes()).arrays.get(product.name)

"""The type of a run, which all of its stages share."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import ml_collections
import numpy as np

from segjax import pretrained
from segjax.core import parallel
from segjax.errors import unknown_name
from segjax.protocol import Input, Product, PyTree
from segjax.spec import DataSpec
from segjax.train import product_files

Source = pretrained.Weights | Mapping[str, PyTree]
"""Published weights, or {'params': .., 'model_state': ..} of another run."""


class NetSource(NamedTuple):
    """The source of some nets: a row of config.init_from.sources.

    pattern  regular expression for names of nets
    path     of a run or of published weights
    release  that named the tensors of published weights; '': recognise it
    load     loads the parameters. It reads the source once
    """

    pattern: str
    path: str
    release: str
    load: Callable[[], Source]


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
    source    loads the parameters that config.init_from.path names (initialization.reader)
    sources   of single nets (initialization.open_net_sources)
    products  {stage: {name: array}}, the arrays that the stages before hand on
    """

    config: ml_collections.ConfigDict
    datasets: Mapping[str, Data]
    workdir: pathlib.Path
    topology: parallel.Topology
    source: Callable[[], Source | None] = no_source
    sources: tuple[NetSource, ...] = ()
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
        return self.data_of(inputs).spec

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
          InputError: the refusal of the input, an error of `data.Prepared.open_input`, or an
            unknown data section.
        """
        if inputs.refusal is not None:
            raise inputs.refusal
        data = self.data_of(inputs)
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
        arrays = product_files.decode(path, path.read_bytes()).arrays
        if product.name not in arrays:
            raise unknown_name(f'product of stage {product.stage!r}', product.name, arrays)
        return arrays[product.name]

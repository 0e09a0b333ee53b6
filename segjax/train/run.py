"""The type of a run, which all of its stages share."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import ml_collections

from segjax import pretrained
from segjax.core import parallel
from segjax.protocol import Input, PyTree
from segjax.spec import DataSpec

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

    def open_input(self, inputs: Input, *features: str) -> Any:
        """Opens the examples of an input, with further features. The result has a length."""


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
    """

    config: ml_collections.ConfigDict
    datasets: Mapping[str, Data]
    workdir: pathlib.Path
    topology: parallel.Topology
    source: Callable[[], Source | None] = no_source
    sources: tuple[NetSource, ...] = ()

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
        """Opens the examples of an input, with further features. The result has a length."""
        return self.datasets[inputs.data].open_input(inputs, *features)

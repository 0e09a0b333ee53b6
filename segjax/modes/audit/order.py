"""What the command line asks an audit for."""

from typing import NamedTuple


class Order(NamedTuple):
    """The flags of an audit, '' for flags that are left out.

    workdir     the run folder
    stage       of the run. '': the last stage that predicts posteriors
    checkpoint  'last' or 'best'
    posteriors  folder of saved posteriors, in place of a run
    members     file of members, a CSV of both kinds, or a split
    nonmembers  file of non-members, or a split
    shadow      runs or folders of shadows, separated by commas
    output      folder for the results
    """

    workdir: str
    stage: str
    checkpoint: str
    posteriors: str
    members: str
    nonmembers: str
    shadow: str
    output: str

"""Finds everything that a run would refuse if it started now."""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from segjax import pipelines
from segjax.core import host, parallel, paths
from segjax.data import cache, index
from segjax.data.builders.base import Dataset
from segjax.data.listing import Listing
from segjax.errors import InputError
from segjax.modes.doctor.findings import Finding, SplitSummary, from_error, of_refusal, warnings
from segjax.modes.doctor.sizes import Fits, fits_anything
from segjax.modes.doctor.splits import without_labels
from segjax.spec import IGNORE, DataSpec
from segjax.train import advice, checks, driver, initialization, same_run


def refusals(
    config: Any, dataset: Dataset, splits: Mapping[str, SplitSummary], workdir: str
) -> tuple[list[Finding], Fits]:
    """Finds what a run would refuse. Nothing is computed, compiled or written.

    Args:
      config: valid.
      dataset: that the config names.
      splits: the summaries of its splits, without errors.
      workdir: the run folder, '' for none.

    Returns:
      The findings, and a function that tells whether the run would accept other values.
    """
    facts = {name: index.of_facts(split.facts) for name, split in splits.items()}
    spec = data_spec(dataset, splits, facts)
    folder = pathlib.Path(workdir or 'no run folder').expanduser().absolute()

    # Without stages there is nothing more to check.
    try:
        topology = parallel.topology(config.parallel.mode, options=host.compiler_options(config))
        source = initialization.reader(config.init_from)
        sources = initialization.open_net_sources(config.init_from)
        config = initialization.with_preprocess(config, folder / driver.CONFIG, source)
        stages = pipelines.make_stages(config, {'data': spec})
    except InputError as error:
        return [from_error(error)], fits_anything
    if unlabelled := without_labels(config, stages, splits):
        return unlabelled, fits_anything

    data = {'data': Listing(spec, dataset.where, facts)}
    run = driver.Run(config, data, folder, topology, source, sources)
    findings = of_refusal(cache.check_place, config.data.cache)
    if workdir:
        findings += of_refusal(paths.check_writable, '--workdir', folder)
    findings += of_refusal(same_run.check_resumed, folder, config)
    findings += of_refusal(same_run.check_data, folder, spec, stages)
    begun = initialization.has_begun(folder)
    findings += map(from_error, checks.problems(run, stages, 'train', begun))
    if findings:
        return findings, fits_anything
    findings = warnings(advice.untrained(config, stages))
    findings += _memory(config, spec)
    return findings, functools.partial(checks.passes, run)


def data_spec(
    dataset: Dataset, splits: Mapping[str, SplitSummary], facts: Mapping[str, index.Index]
) -> DataSpec:
    """Returns the DataSpec that preparing the data set would write.

    Args:
      dataset: the data set.
      splits: the summaries of its splits.
      facts: of the examples of each split.
    """
    # The sizes of each split.
    num_classes = dataset.classes.num_classes
    num_examples = {}
    max_size = {}
    class_pixels = {}
    void_pixels = {}
    for name, split in splits.items():
        num_examples[name] = len(split.items)
        max_size[name] = tuple(np.max(list(split.sizes), axis=0).tolist())
        class_pixels[name] = tuple(split.counts[:num_classes].tolist())
        void_pixels[name] = int(split.counts[IGNORE])
    return DataSpec(
        name=dataset.name,
        classes=dataset.classes,
        features=dataset.features([item for split in splits.values() for item in split.items]),
        num_examples=num_examples,
        max_size=max_size,
        class_pixels=class_pixels,
        void_pixels=void_pixels,
        declared=dict(dataset.declared),
        **index.spec_fields(facts),
    )


def _memory(config: Any, spec: DataSpec) -> list[Finding]:
    """Warns of evaluation images whose logits take gigabytes of a device.

    Logits at the size of the labels never exist for all classes at once, and the logits of large
    images are computed image by image.
    """
    height, width = config.data.eval_size
    gigabytes = height * width * spec.classes.num_classes * 4 / 1e9
    if gigabytes < 4:
        return []
    message = f'the logits of an image of {height}x{width} take {gigabytes:.0f} GB of a device'
    smaller = (max(1, height // 2), max(1, width // 2))
    return [
        Finding(
            'warning',
            'config.data.eval_size',
            message,
            f'smaller images, as --config.data.eval_size="{smaller}"',
        )
    ]

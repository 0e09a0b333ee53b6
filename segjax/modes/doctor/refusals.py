"""Finds everything that a run would refuse if it started now."""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

from segjax import pipelines
from segjax.core import host, parallel, paths
from segjax.data import cache
from segjax.data.listing import Listing
from segjax.errors import InputError
from segjax.modes.doctor.examined import Examined
from segjax.modes.doctor.findings import Finding, from_error, of_refusal, warnings
from segjax.modes.doctor.sizes import Fits, fits_anything
from segjax.modes.doctor.splits import without_labels
from segjax.spec import DataSpec
from segjax.train import advice, checks, data_sets, driver, initialization, same_run


def refusals(
    config: Any, examined: Mapping[str, Examined], workdir: str
) -> tuple[list[Finding], Fits]:
    """Finds what a run would refuse. Nothing is computed, compiled or written.

    Args:
      config: valid.
      examined: the data sets by config section, without errors.
      workdir: the run folder, '' for none.

    Returns:
      The findings, and a function that tells whether the run would accept other values.
    """
    folder = pathlib.Path(workdir or 'no run folder').expanduser().absolute()
    specs = {}
    for name, data in examined.items():
        specs[name] = data_sets.with_parts(data.spec, data.view, config)
    specs = same_run.with_stored_parts(folder, specs)

    # Without stages there is nothing more to check.
    try:
        topology = parallel.topology(config.parallel.mode, options=host.compiler_options(config))
        source = initialization.reader(config.init_from)
        config = initialization.with_preprocess(config, folder / driver.CONFIG, source)
        stages = pipelines.make_stages(config, specs)
    except InputError as error:
        return [from_error(error)], fits_anything
    splits = {name: data.splits for name, data in examined.items()}
    if unlabelled := without_labels(config, stages, splits):
        return unlabelled, fits_anything

    listings = {}
    for name, data in examined.items():
        listings[name] = Listing(specs[name], data.where, data.view)
    run = driver.Run(config, listings, folder, topology, source)
    findings = of_refusal(cache.check_place, config.data.cache)
    if workdir:
        findings += of_refusal(paths.check_writable, '--workdir', folder)
    findings += of_refusal(same_run.check_resumed, folder, config)
    findings += of_refusal(same_run.check_data, folder, specs, stages)
    begun = initialization.has_begun(folder)
    findings += map(from_error, checks.problems(run, stages, 'train', begun))
    if findings:
        return findings, fits_anything
    findings = warnings(advice.untrained(config, stages))
    findings += _memory(config, specs['data'], topology.count)
    return findings, functools.partial(checks.passes, run)


def _memory(config: Any, spec: DataSpec, num_devices: int) -> list[Finding]:
    """Warns of an evaluation whose logits take gigabytes of a device."""
    at_label = config.evaluate.resolution == 'label'
    max_size = spec.split(config.data.eval_split).max_size
    height, width = max_size if at_label else config.data.eval_size
    gigabytes_per_image = height * width * spec.classes.num_classes * 4 / 1e9
    rows = config.evaluate.batch_size // num_devices
    gigabytes = rows * gigabytes_per_image
    if gigabytes < 4:
        return []
    message = (
        f'the logits of a batch of {height}x{width} labels take {gigabytes:.0f} GB of a device'
    )
    fewer_rows = max(1, int(3.9 / gigabytes_per_image))
    if fewer_rows != rows:
        fix = f'--config.evaluate.batch_size={fewer_rows * num_devices}'
    elif at_label:
        fix = '--config.evaluate.resolution=image, which scores at data.eval_size'
    else:
        fix = 'smaller images'
    return [Finding('warning', 'config.evaluate.batch_size', message, fix)]

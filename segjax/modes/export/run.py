"""Runs `--mode export`: checks the request, loads the run, and writes the folder."""

import importlib.util
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from jax import export

from segjax.core import files, parallel
from segjax.errors import InputError, unknown_name
from segjax.modes.export import examples, folder, onnx_file, page, released, uses
from segjax.modes.export.program import ANY, PLATFORMS, export_program, make_program
from segjax.modes.predict.run import chosen_method, net_facts
from segjax.protocol import Stage, TrainState
from segjax.train import driver

STABLEHLO = 'stablehlo'
SAFETENSORS = 'safetensors'
ONNX = 'onnx'
FORMATS = (STABLEHLO, SAFETENSORS, ONNX)
"""Values of --formats."""
PACKAGES = {
    STABLEHLO: {'flatbuffers': 'pip install flatbuffers'},
    ONNX: {
        'jax2onnx': 'pip install onnx onnx-ir onnxruntime; pip install --no-deps jax2onnx',
        'onnxruntime': 'pip install onnxruntime',
    },
}
"""{format: {package that writes or checks it: its installation}}."""


def main(
    config: ml_collections.ConfigDict,
    workdir: str,
    output_folder: str,
    which: str = 'last',
    stage_name: str = '',
    formats: str = STABLEHLO,
    platforms: str = 'cpu,cuda,tpu',
    batch: str = ANY,
) -> dict[str, Any]:
    """Runs `--mode export`: writes the prediction of a stage as files that need no segjax.

    Args:
      config: of the run. `config.predict.method` chooses between two uses of a stage, and
        `config.predict.tile` is the size of images.
      workdir: the run folder.
      output_folder: does not exist.
      which: 'last' or 'best' checkpoint.
      stage_name: '' for the last stage that can predict.
      formats: names of FORMATS, separated by commas.
      platforms: names of PLATFORMS, separated by commas.
      batch: number of examples of a call, or 'any'.

    Returns:
      The content of export.json.

    Raises:
      InputError: an unknown format or platform, a folder that exists, a stage that cannot predict,
        or a program that needs a fixed number of examples.
    """
    target = pathlib.Path(output_folder)
    named_formats = _names('--formats', formats, FORMATS)
    named_platforms = _names('--platforms', platforms, PLATFORMS)
    rows = _rows(batch)
    folder.check_absent(target)
    parallel.check_single_process('--mode export')
    check_packages(named_formats)

    # The stage is chosen before its arrays are loaded.
    opened, stages = driver.open_run(config, workdir, 'predict')
    stage = _stage_of(opened, stages, stage_name)
    use = uses.use_of(opened, stage, chosen_method(stage, opened.config.predict.method))
    stage, state = driver.load_last_stage(opened, stages, which, stage_name)
    state = parallel.to_host(state)
    facts = net_facts(opened, stage, state)
    exported = page.Exported(
        use=use,
        program=make_program(use, state),
        batch=rows,
        platforms=named_platforms,
        classes=opened.spec_of(stage.eval_input).classes,
        title=f'Stage {stage.name} of pipeline {opened.config.pipeline}, step {facts["step"]}',
    )
    with folder.new_folder(target) as partial:
        record = {**facts, **write(partial, exported, state, named_formats)}
        files.write_json(partial / page.RECORD, record)
    _print_summary(record, target)
    return record


def write(
    partial: pathlib.Path,
    exported: page.Exported,
    state: TrainState,
    formats: tuple[str, ...] = (STABLEHLO,),
) -> dict[str, Any]:
    """Writes all files except export.json.

    Args:
      partial: the folder.
      exported: the facts of the program.
      state: of the stage, on the host.
      formats: names of FORMATS.

    Returns:
      Facts for export.json: inputs, outputs, files, and the differences from the run.

    Raises:
      InputError: a format that the program or its nets do not have.
    """
    program = exported.program
    record = {**page.described_values(exported), 'jax': jax.__version__, 'differences': {}}
    sections = []
    if STABLEHLO in formats:
        lowered = export_program(program, exported.batch, exported.platforms)
        (partial / page.PROGRAM).write_bytes(lowered.serialize())
        np.savez(partial / page.WEIGHTS, **program.weights)
        record['differences'][STABLEHLO] = _differences(partial, exported, state)
        sections.append(page.program_section(exported))
    if ONNX in formats:
        onnx_file.write(partial, program, exported.batch)
        inputs = random_inputs(exported)
        differences = onnx_file.check(partial, inputs, outputs_of_run(exported, state, inputs))
        record['differences'][ONNX] = as_json(differences)
        sections.append(page.onnx_section(exported, onnx_file.MODEL))
    if SAFETENSORS in formats:
        record['releases'] = released.write(partial, released.releases(program, state), state)
        sections.append(page.releases_section(record['releases']))

    # The classes, and the page about all files.
    files.write_json(partial / page.CLASSES, page.described_classes(exported.classes))
    files.write_text(partial / page.README, page.readme(exported, sections))
    return record


def _differences(
    partial: pathlib.Path, exported: page.Exported, state: TrainState
) -> dict[str, Any] | None:
    """Reads the program back, and compares it with the run on random examples.

    Returns None if this machine has none of the platforms of the program.
    """
    if export.default_export_platform() not in exported.platforms:
        return None
    inputs = random_inputs(exported)
    expected = outputs_of_run(exported, state, inputs)
    return as_json(examples.compare(call(partial, inputs), expected))


def as_json(differences: Mapping[str, examples.Difference]) -> dict[str, Any]:
    """Returns the differences of outputs, for export.json."""
    return {name: difference._asdict() for name, difference in differences.items()}


def outputs_of_run(
    exported: page.Exported, state: TrainState, inputs: Mapping[str, np.ndarray]
) -> Mapping[str, jax.Array]:
    """Returns the outputs that the run itself computes.

    Args:
      exported: the facts of the program.
      state: of the stage.
      inputs: of the program. Inputs that it does not read are 0.
    """
    return jax.jit(exported.use.apply)(state, whole_inputs(exported, inputs))


def random_inputs(exported: page.Exported) -> dict[str, np.ndarray]:
    """Returns random examples for a program."""
    classes = exported.classes.num_classes
    return examples.draw(exported.use, exported.program.inputs, exported.batch or 2, classes)


def whole_inputs(
    exported: page.Exported, inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns the inputs of a use: those of its program, and zeros that it does not read."""
    whole = dict(inputs)
    rows = len(next(iter(inputs.values())))
    for name, shape in exported.use.inputs.items():
        whole.setdefault(name, np.zeros((rows, *shape.shape), shape.dtype))
    return whole


def call(partial: pathlib.Path, inputs: Mapping[str, np.ndarray]) -> Mapping[str, jax.Array]:
    """Reads the program of a folder and calls it."""
    program = export.deserialize(bytearray((partial / page.PROGRAM).read_bytes()))
    with np.load(partial / page.WEIGHTS) as weights:
        return program.call(dict(weights), dict(inputs))


# --- checks ---------------------------------------------------------------------------------------


def _names(flag: str, text: str, known: Iterable[str]) -> tuple[str, ...]:
    """Returns the names of a flag in their order, each once.

    Raises:
      InputError: an unknown name, or no name.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(',')))
    for name in names:
        if name not in known:
            raise unknown_name(flag, name, known)
    return names


def _rows(batch: str) -> int | None:
    """Returns the number of examples of a call, None for any number."""
    if batch == ANY:
        return None
    if not batch.isascii() or not batch.isdigit() or int(batch) == 0:
        raise InputError(
            '--batch', got=repr(batch), expected=f'a number of examples, or {ANY}', fix='--batch 1'
        )
    return int(batch)


def check_packages(formats: Iterable[str]) -> None:
    """Raises InputError if a package that writes a format is absent."""
    for name, packages in PACKAGES.items():
        for package, command in packages.items() if name in formats else ():
            if importlib.util.find_spec(package) is None:
                raise InputError(
                    f'--formats {name}',
                    got=f'no package {package}',
                    expected='the packages of this format',
                    fix=command,
                )


def _stage_of(opened: driver.Run, stages: tuple[Stage, ...], name: str) -> Stage:
    """Returns the stage that is exported. Raises InputError if it cannot predict."""
    try:
        return driver.predicting_stage(opened, stages, name)
    except InputError as error:
        raise error.at(error.where.replace('--mode predict', '--mode export')) from error


def _print_summary(record: Mapping[str, Any], target: pathlib.Path) -> None:
    """Prints the files, and how far they are from the run."""
    print(f'exported: {target}')
    for name, release in record.get('releases', {}).items():
        print(f'{name}: {release["arrays"]} arrays of the net, as in {release["release"]}')
    for name, differences in record['differences'].items():
        if differences is None:
            print(f'{name}: not compared, because this machine has none of the platforms')
            continue
        for output, difference in differences.items():
            print(
                f'{name}: {output} differs by at most {difference["largest"]:.3g} from the run, '
                f'where its largest value is {difference["scale"]:.3g}',
                flush=True,
            )

"""`--mode bench`: measures the speed of a config, and what its programs cost.

Nothing has to be trained first, because parameters are fresh. For every stage of the config these
parts are timed:

    train     one optimiser step of the global batch: batch to the devices, forward, backward,
              update, metrics
    evaluate  one evaluation batch: batch to the devices, forward, metrics at the resolution of the
              scores
    predict   one batch of tiles as `--mode predict` calls it, on one device: tiles to the device,
              forward
    input     reading, decoding, augmenting and batching for training, with the threads and workers
              of the config, while the devices are idle

`config.bench.parts` names the parts that are timed, all by default. `config.bench.variants` names
other settings of the same config. Their programs are timed in the same run, one call of each in
turn, so that a machine that slows down affects all variants equally. Variants are compared by the
time per image in each round.

Programs are compiled ahead of time with the persistent cache off. `compile_seconds` is the cost of
the first start on a machine, and `lower_seconds` (tracing) a cost of every start. FLOPs and bytes
are XLA's own estimates for the program of one device, where a multiply-add counts as two operations
and kernels that XLA cannot inspect count as 0. Every repetition waits for its result. Warm-up calls
before the repetitions do not count. Figures are the median and the quartiles over the repetitions.
"""

from segjax.modes.bench.clocks import Measurement, Ratio, measure_in_turn, ratios
from segjax.modes.bench.programs import Program, compile_program
from segjax.modes.bench.run import (
    BASE,
    Variant,
    bench_calls,
    bench_input,
    bench_stage,
    main,
    measure_calls,
    open_untrained,
    open_variants,
    per_image,
    time_variants,
)
from segjax.modes.bench.stages import INCLUDED, PARTS, Timed, TimedRun, fresh_runs, prepare
from segjax.modes.bench.text import table

__all__ = [
    'BASE',
    'INCLUDED',
    'PARTS',
    'Measurement',
    'Program',
    'Ratio',
    'Timed',
    'TimedRun',
    'Variant',
    'bench_calls',
    'bench_input',
    'bench_stage',
    'compile_program',
    'fresh_runs',
    'main',
    'measure_calls',
    'measure_in_turn',
    'open_untrained',
    'open_variants',
    'per_image',
    'prepare',
    'ratios',
    'table',
    'time_variants',
]

"""`--mode export`: the prediction of a stage as files that need no segjax.

The folder holds

    program.jax   a program of JAX: StableHLO, by `jax.export`
    weights.npz   the arrays that it reads, under the names of checkpoints
    classes.json  name, id and colour of each class, in the order of their train ids
    export.json   how the program was made, and how far it is from the run
    README.md     about ten lines of Python that run it, with jax, numpy and flatbuffers

and with `--formats safetensors` each net that the program reads, in the names and layouts of the
releases that fit it (released.py).

The program is the function that `--mode predict` calls, traced once. So images are uint8 RGB, and
their preparation is a part of it. A stage with `predict` gives the class probabilities of a tile. A
stage with a `Prediction` gives its declared outputs. Random numbers of an example depend on its
input `draw`. A net with averages has them as its only parameters.

Arrays are arguments of the program, not constants. XLA would spend minutes folding constants, and
the arrays can be replaced.

The folder appears at once under its name, when it is complete. The program is read back from it,
and compared with the run on random examples.
"""

from segjax.modes.export.run import main

__all__ = ['main']

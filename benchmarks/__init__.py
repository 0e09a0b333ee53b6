"""Speed of segjax against torch, and of reading data. Not part of the installed package.

    python -m benchmarks.nets --torch PATH/TO/torch/python --nets erfnet,bisenet
    python -m benchmarks.data --torch PATH/TO/torch/python

torch lives in a Python of its own. The modules that this Python runs import nothing of segjax:
`torch_nets`, `torch_worker` and `serving`.
"""

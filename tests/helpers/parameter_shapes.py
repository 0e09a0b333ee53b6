"""Has flax check the shapes of parameters without a trace: a third of the time that nets trace."""

import functools

from flax.core import meta, scope


def check_without_a_trace(monkeypatch) -> None:
    """Replaces the check with which flax meets an existing parameter in every call of a net.

    Flax traces the initialiser for the shape of its result. Here the shape that the layer asks for
    is compared instead. Flax itself decides wherever the shapes differ.
    """
    traced = scope.Scope.param

    @functools.wraps(traced)
    def param(self, name, init_fn, *arguments, unbox=True, **keywords):
        if arguments and self.has_variable('params', name):
            value = self.get_variable('params', name)
            found = meta.unbox(value)
            if getattr(found, 'shape', None) == arguments[0]:
                self.reserve(name, 'params')
                return found if unbox else value
        return traced(self, name, init_fn, *arguments, unbox=unbox, **keywords)

    monkeypatch.setattr(scope.Scope, 'param', param)

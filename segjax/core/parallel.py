"""Devices, processes and collectives: the only file that names `pmap`, `shard_map`, axes or psum.

A step is written per device and mapped by `Topology.spmd`: the state goes in and comes out replicated (without a device
axis), the batch is split. Two backends give the same numbers: `jax.pmap` (default) and `jax.jit(jax.shard_map)`.

Everything that adds up over devices leaves as (sum, count) and is divided once: a mean of per-device means is wrong as
soon as ignored pixels are dealt out unevenly. Gradients leave through `global_value_and_grad` only.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from segjax.core import processes
from segjax.errors import InputError
from segjax.protocol import Mean, PyTree

AXIS = 'data'


def initialize(distributed: bool, coordinator: str, num_processes: int, process_id: int) -> None:
    """Joins the processes of a multi-host run. Must come before anything touches a device.

    Args:
      distributed: find the other processes from SLURM or TPU metadata.
      coordinator: 'host:port' of process 0 instead, with num_processes and process_id; '' for a single process.
    """
    if not coordinator and (num_processes, process_id) != (1, 0):
        got = f'--num_processes {num_processes} --process_id {process_id} without --coordinator'
        raise InputError('--coordinator', got=got, expected='host:port of process 0')
    # JAX's own listener would take SIGTERM away from StopSignal.
    jax.config.update('jax_enable_preemption_service', False)
    if coordinator:
        if not 0 <= process_id < num_processes:
            raise InputError(
                '--process_id',
                got=f'{process_id} of --num_processes {num_processes}',
                expected='0 <= process_id < num_processes',
            )
        if (
            not re.fullmatch(r'.+:[1-9]\d{0,4}', coordinator)
            or int(coordinator.rsplit(':', 1)[1]) > 65535
        ):
            fix = '--coordinator node1:12345, with the name of the host of process 0'
            raise InputError(
                '--coordinator', got=coordinator, expected='host:port of process 0', fix=fix
            )
        start = functools.partial(
            jax.distributed.initialize, coordinator, num_processes, process_id
        )
        processes.join(start, f'--coordinator {coordinator}')
    elif distributed:
        try:
            processes.join(jax.distributed.initialize, '--distributed')
        except ValueError as error:
            got = f'no cluster that JAX knows ({error})'
            fix = '--coordinator host:port --num_processes N --process_id I, or leave it out on one machine'
            raise InputError(
                '--distributed', got=got, expected='a SLURM job or a TPU pod', fix=fix
            ) from error


@dataclasses.dataclass(frozen=True)
class Topology:
    """Which devices take part, and how a function is mapped over them.

    mode     'pmap' or 'shard_map'
    devices  all devices of all processes (shard_map), this process's devices (pmap); a run uses them all by default
    options  XLA's options for every program of the run, (name, value) pairs (segjax/core/host.py)
    """

    mode: str
    devices: tuple[Any, ...]
    options: tuple[tuple[str, str], ...] = ()

    @property
    def local_count(self) -> int:
        return sum(d.process_index == jax.process_index() for d in self.devices)

    @property
    def count(self) -> int:
        return self.local_count * jax.process_count()

    @property
    def mesh(self):
        return jax.make_mesh(
            (len(self.devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=self.devices
        )

    def spmd(
        self,
        fn: Callable,
        *,
        batch_args: tuple[int, ...] = (1,),
        num_args: int,
        donate: tuple[int, ...] = (),
    ) -> Callable:
        """Maps a per-device function over the devices. What it returns must be equal on all of them.

        Args:
          fn: takes `num_args` positional arguments. Inside it `device_index` and the sums of this file work.
          batch_args: positions of arguments whose leading axis is split over devices (from `put_batch`); all others
            are replicated.
          donate: positions of arguments whose memory may be reused for the output.
        """
        if self.mode == 'pmap':
            in_axes = tuple(0 if i in batch_args else None for i in range(num_args))
            mapped = jax.pmap(
                fn,
                AXIS,
                in_axes=in_axes,
                out_axes=None,
                donate_argnums=donate,
                devices=None if self._uses_all() else self.devices,
            )
            return self._pmap_with_options(mapped, donate) if self.options else mapped
        in_specs = tuple(P(AXIS) if i in batch_args else P() for i in range(num_args))
        # check_vma=False gives pmap's meaning of gradients; with the check on, gradients of replicated inputs
        # arrive summed already, and our own sum would count every device twice over.
        mapped = jax.shard_map(
            fn, mesh=self.mesh, in_specs=in_specs, out_specs=P(), check_vma=False
        )
        return self.jit(mapped, donate)

    def jit(self, fn: Callable, donate: tuple[int, ...] = ()) -> Callable:
        """Jits a function with the options of the run."""
        return jax.jit(fn, donate_argnums=donate, compiler_options=dict(self.options))

    def _pmap_with_options(self, mapped: Callable, donate: tuple[int, ...]) -> Callable:
        """Jits a `jax.pmap`, which takes no options of the compiler itself."""

        # `jax.jit` copies the attributes of its function. `jax.pmap`'s `lower` would ignore the options.
        def without_attributes(*args):
            return mapped(*args)

        return self.jit(without_attributes, donate)

    def eval_shape(self, fn: Callable, *args, batch_args: tuple[int, ...] = (1,)) -> PyTree:
        """Traces `fn` as `spmd` maps it and returns the shapes of its result. Nothing is computed.

        Args:
          fn: as in `spmd`.
          *args: arrays or their shapes; the rows of a batch are those of the global batch.
          batch_args: as in `spmd`.
        """
        in_specs = tuple(P(AXIS) if i in batch_args else P() for i in range(len(args)))
        mesh = AbstractMesh((self.count,), (AXIS,), axis_types=(AxisType.Auto,))
        mapped = jax.shard_map(fn, mesh=mesh, in_specs=in_specs, out_specs=P(), check_vma=False)
        return jax.eval_shape(mapped, *args)

    def put_batch(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """This process's rows of the global batch, onto its devices. The leading axis must divide by local_count."""
        if self.mode == 'pmap':
            n = self.local_count
            return {k: v.reshape(n, v.shape[0] // n, *v.shape[1:]) for k, v in batch.items()}
        sharding = NamedSharding(self.mesh, P(AXIS))
        return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}

    def put_replicated(self, tree: PyTree) -> PyTree:
        """A host tree, the same in every process, onto all devices."""
        # With the very sharding that steps return, or the second step would be traced anew.
        if self.mode == 'pmap':
            local = [d for d in self.devices if d.process_index == jax.process_index()]
            return jax.device_put(tree, NamedSharding(Mesh(np.array(local), (AXIS,)), P()))
        sharding = NamedSharding(self.mesh, P())
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree
        )

    def check_batch_size(self, where: str, batch_size: int, accumulate: int = 1) -> None:
        """Raises InputError unless every device gets the same number of whole micro-batches."""
        unit = self.count * accumulate
        if batch_size % unit:
            devices = f'{self.count} device{"s" * (self.count > 1)}'
            micro = f' x {accumulate} micro-batches' if accumulate > 1 else ''
            raise InputError(
                where,
                got=f'{batch_size} on {devices}{micro}',
                expected=f'a multiple of {unit}',
                fix=f'--config.{where}={-(-batch_size // unit) * unit}',
            )

    def _uses_all(self) -> bool:
        return set(self.devices) == set(jax.devices())


def topology(
    mode: str = 'pmap', max_devices: int | None = None, options: tuple[tuple[str, str], ...] = ()
) -> Topology:
    """The topology over all devices, or over the first `max_devices` (single process; tests and benchmarks)."""
    return Topology(mode, tuple(jax.devices()[:max_devices]), options)


def to_host(tree: PyTree) -> PyTree:
    """A replicated tree as numpy arrays."""

    def fetch(x):
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return np.asarray(x.addressable_data(0))
        return np.asarray(x)

    return jax.tree.map(fetch, tree)


def is_main() -> bool:
    """True in the one process that writes files."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits for all processes."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def of_main(number: int) -> int:
    """The main process's value of `number`, in all processes."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def in_any_process(flag: bool) -> bool:
    """True in all processes if `flag` is true in one of them. All must call it at the same place."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.int32(flag))))


# --- inside a mapped function -----------------------------------------------------------------------------------------


def device_index() -> jax.Array:
    """Position of this device among all devices of all processes."""
    return lax.axis_index(AXIS)


def sum_over_devices(tree: PyTree) -> PyTree:
    """Adds up the leaves of all devices (metrics as (sum, count) pairs)."""
    return lax.psum(tree, AXIS)


def all_rows(x: jax.Array) -> jax.Array:
    """The rows of all devices, in the order of the global batch: [B, ...] -> [devices * B, ...], equal everywhere."""
    return lax.all_gather(x, AXIS, tiled=True)


def own_rows(x: jax.Array) -> jax.Array:
    """This device's share of rows that are equal everywhere: the inverse of `all_rows`."""
    rows = x.shape[0] // lax.axis_size(AXIS)
    return lax.dynamic_slice_in_dim(x, device_index() * rows, rows)


def replica_mismatch(tree: PyTree) -> jax.Array:
    """How many numbers of a tree differ between devices, bit for bit: 0 when the replicas are identical."""

    def differing(x):
        bits = x.astype(jnp.int32) if x.dtype == bool else x
        if jnp.issubdtype(bits.dtype, jnp.floating):
            bits = lax.bitcast_convert_type(bits, jnp.dtype(f'int{8 * bits.dtype.itemsize}'))
        return jnp.sum(lax.pmax(bits, AXIS) != lax.pmin(bits, AXIS))

    return sum(jax.tree.leaves(jax.tree.map(differing, tree)), jnp.int32(0))


def global_value_and_grad(
    loss_fn: Callable,
    weight_of: Callable[[str], float],
    accumulate: int = 1,
    shared: Collection[str] = (),
) -> Callable:
    """Value and gradient of a weighted sum of global means, L = sum_t w_t * sum_devices(sum_t) / sum_devices(count_t).

    Args:
      loss_fn: (params, model_state, batch, keys) -> (terms, model_state, aux), per device. `terms` maps a name to a
        `Mean`; its count may depend on the data (ignored pixels, mined pixels) but gets no gradient. A term that
        counted nothing on any device adds 0.
      weight_of: name of a term -> w_t (the `__getitem__` of a dict refuses unknown names).
      accumulate: micro-batches the device's batch is cut into. The result is that of the whole batch: the counts are
        summed first (where they depend on the labels alone, XLA drops the net from that pass), and `model_state`
        (batch statistics) is handed from one micro-batch to the next. `aux` comes back with its rows in order.
      shared: names of the keys that are equal in all micro-batches (`Stage.shared_streams`). The
        remaining keys are folded with the number of the micro-batch.

    Returns:
      (params, model_state, batch, keys) -> ((loss, terms, model_state, aux), grads): loss and grads are global and
      equal on all devices, terms are this device's.
    """

    def total(terms, counts):
        return sum(
            weight_of(k) * terms[k].sum / jnp.where(counts[k] > 0, counts[k], 1) for k in terms
        )

    def global_counts(terms):
        return {k: lax.stop_gradient(lax.psum(m.count, AXIS)) for k, m in terms.items()}

    def step(params, model_state, batch, keys, counts=None):
        def objective(params):
            terms, state, aux = loss_fn(params, model_state, batch, keys)
            return total(terms, global_counts(terms) if counts is None else counts), (
                terms,
                state,
                aux,
            )

        (loss, (terms, state, aux)), grads = jax.value_and_grad(objective, has_aux=True)(params)
        return (loss, terms, state, aux), grads

    def whole(params, model_state, batch, keys):
        (loss, terms, state, aux), grads = step(params, model_state, batch, keys)
        loss, grads = lax.psum((loss, grads), AXIS)
        return (loss, terms, state, aux), grads

    def in_parts(params, model_state, batch, keys):
        rows = {k: x.shape[0] for k, x in batch.items()}
        if any(n % accumulate for n in rows.values()):
            raise ValueError(
                f'micro-batches need rows in multiples of {accumulate} in every entry, got {rows}'
            )
        parts = jax.tree.map(
            lambda x: x.reshape(accumulate, x.shape[0] // accumulate, *x.shape[1:]), batch
        )

        def part_keys(i):
            own = {name: key for name, key in keys.items() if name not in shared}
            return {**keys, **jax.tree.map(lambda key: jax.random.fold_in(key, i), own)}

        def count(i, part):
            terms, _, _ = loss_fn(params, model_state, part, part_keys(i))
            return i + 1, {k: m.count for k, m in terms.items()}

        _, part_counts = lax.scan(count, 0, parts)
        counts = lax.psum(jax.tree.map(lambda c: c.sum(0), part_counts), AXIS)

        def accumulate_part(carry, part):
            i, state, grads = carry
            (loss, terms, state, aux), part_grads = step(params, state, part, part_keys(i), counts)
            return (i + 1, state, jax.tree.map(jnp.add, grads, part_grads)), (loss, terms, aux)

        zeros = jax.tree.map(jnp.zeros_like, params)
        (_, state, grads), (losses, terms, aux) = lax.scan(
            accumulate_part, (0, model_state, zeros), parts
        )
        loss, grads = lax.psum((losses.sum(), grads), AXIS)
        terms = {k: Mean(m.sum.sum(0), m.count.sum(0)) for k, m in terms.items()}
        aux = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), aux)
        return (loss, terms, state, aux), grads

    return whole if accumulate == 1 else in_parts

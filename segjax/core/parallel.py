"""Devices, processes and collectives: the only file that names `pmap`, `shard_map`, axes or psum.

A step is written per device and mapped by `Topology.spmd`. The state is replicated, without a
device axis. The batch is split. Two backends give the same numbers: `jax.pmap` (default) and
`jax.jit(jax.shard_map)`.

Sums over devices are kept as (sum, count) and divided once. A mean of per-device means is wrong if
devices have different numbers of ignored pixels. Gradients come from `global_value_and_grad` only.
"""

import dataclasses
import functools
import operator
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
      distributed: find all processes from SLURM or TPU metadata.
      coordinator: 'host:port' of process 0. '' for a single process, and with `distributed`.
      num_processes: with a coordinator, the number of processes.
      process_id: with a coordinator, the number of this process.

    Raises:
      InputError: the arguments do not fit together, or no cluster is found.
    """
    if not coordinator and (num_processes, process_id) != (1, 0):
        got = f'--num_processes {num_processes} --process_id {process_id} without --coordinator'
        raise InputError('--coordinator', got=got, expected='host:port of process 0')
    # JAX's own listener would keep SIGTERM from StopSignal.
    jax.config.update('jax_enable_preemption_service', False)
    if coordinator:
        _check_coordinator(coordinator, num_processes, process_id)
        start = functools.partial(
            jax.distributed.initialize, coordinator, num_processes, process_id
        )
        processes.join(start, f'--coordinator {coordinator}')
    elif distributed:
        try:
            processes.join(jax.distributed.initialize, '--distributed')
        except ValueError as error:
            got = f'no cluster that JAX knows ({error})'
            fix = (
                '--coordinator host:port --num_processes N --process_id I, '
                'or leave it out on one machine'
            )
            raise InputError(
                '--distributed', got=got, expected='a SLURM job or a TPU pod', fix=fix
            ) from error


def _check_coordinator(coordinator: str, num_processes: int, process_id: int) -> None:
    """Raises InputError for a process number that is too large, and for a wrong address."""
    if not 0 <= process_id < num_processes:
        raise InputError(
            '--process_id',
            got=f'{process_id} of --num_processes {num_processes}',
            expected='0 <= process_id < num_processes',
        )
    is_address = re.fullmatch(r'.+:[1-9]\d{0,4}', coordinator)
    if not is_address or int(coordinator.rsplit(':', 1)[1]) > 65535:
        raise InputError(
            '--coordinator',
            got=coordinator,
            expected='host:port of process 0',
            fix='--coordinator node1:12345, with the name of the host of process 0',
        )


@dataclasses.dataclass(frozen=True)
class Topology:
    """The devices of a run, and the way in which functions are mapped over them.

    mode     'pmap' or 'shard_map'
    devices  all devices of all processes. Tests and benchmarks of one process may use fewer
    options  XLA's options for every program of the run, (name, value) pairs (segjax/core/host.py)
    """

    mode: str
    devices: tuple[Any, ...]
    options: tuple[tuple[str, str], ...] = ()

    @property
    def local_count(self) -> int:
        """Returns the number of devices of this process."""
        return sum(d.process_index == jax.process_index() for d in self.devices)

    @property
    def count(self) -> int:
        """Returns the number of devices of all processes."""
        return self.local_count * jax.process_count()

    @property
    def mesh(self) -> Mesh:
        """Returns the mesh of the devices in a row, with the axis AXIS."""
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
        split: tuple[bool, ...] = (),
    ) -> Callable:
        """Maps a per-device function over the devices.

        Args:
          fn: takes `num_args` positional arguments. Inside `fn`, `device_index` and the sums of
            this file work.
          batch_args: positions of arguments whose leading axis is split over devices (from
            `put_batch`). All further arguments are replicated.
          num_args: number of arguments.
          donate: positions of arguments whose memory may be reused for the output.
          split: for each result of a `fn` that returns a tuple, whether its rows stay on their
            devices, for `rows_of_process`. All other results must be equal on all devices.
            (): `fn` returns no such result.
        """
        if self.mode == 'pmap':
            in_axes = tuple(0 if i in batch_args else None for i in range(num_args))
            mapped = jax.pmap(
                fn,
                AXIS,
                in_axes=in_axes,
                out_axes=tuple(0 if rows else None for rows in split) or None,
                donate_argnums=donate,
                devices=None if self._uses_all() else self.devices,
            )
            return self._pmap_with_options(mapped, donate) if self.options else mapped
        in_specs = tuple(P(AXIS) if i in batch_args else P() for i in range(num_args))
        # check_vma=False gives gradients the meaning that they have under pmap. With the check,
        # gradients of replicated inputs are already summed, and our own sum would add them again.
        out_specs = tuple(P(AXIS) if rows else P() for rows in split) or P()
        mapped = jax.shard_map(
            fn, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )
        return self.jit(mapped, donate)

    def jit(self, fn: Callable, donate: tuple[int, ...] = ()) -> Callable:
        """Jits a function with the options of the run."""
        return jax.jit(fn, donate_argnums=donate, compiler_options=dict(self.options))

    def _pmap_with_options(self, mapped: Callable, donate: tuple[int, ...]) -> Callable:
        """Jits a `jax.pmap`, which itself accepts no options of the compiler."""

        # `jax.jit` copies the attributes of its function. The `lower` of `jax.pmap` would ignore
        # the options.
        def without_attributes(*args):
            return mapped(*args)

        return self.jit(without_attributes, donate)

    def eval_shape(self, fn: Callable, *args, batch_args: tuple[int, ...] = (1,)) -> PyTree:
        """Traces `fn` as `spmd` maps it and returns the shapes of its result. Nothing is computed.

        Args:
          fn: as in `spmd`.
          *args: arrays or their shapes. A batch has the rows of the global batch.
          batch_args: as in `spmd`.
        """
        in_specs = tuple(P(AXIS) if i in batch_args else P() for i in range(len(args)))
        mesh = AbstractMesh((self.count,), (AXIS,), axis_types=(AxisType.Auto,))
        mapped = jax.shard_map(fn, mesh=mesh, in_specs=in_specs, out_specs=P(), check_vma=False)
        return jax.eval_shape(mapped, *args)

    def put_batch(self, batch: Mapping[str, np.ndarray]) -> Mapping[str, jax.Array | np.ndarray]:
        """Puts this process's rows of the global batch onto its devices.

        Args:
          batch: arrays whose number of rows is a multiple of `local_count`.
        """
        if self.mode == 'pmap':
            n = self.local_count
            return {
                key: value.reshape(n, value.shape[0] // n, *value.shape[1:])  # [n, B / n, ...]
                for key, value in batch.items()
            }
        sharding = NamedSharding(self.mesh, P(AXIS))
        return {
            key: jax.make_array_from_process_local_data(sharding, value)
            for key, value in batch.items()
        }

    def rows_of_process(self, tree: PyTree) -> PyTree:
        """Returns this process's rows of results that `spmd` left split, as numpy arrays.

        The rows are in the order of the batch that this process put onto its devices.
        """

        def fetch(x: jax.Array) -> np.ndarray:
            shards = sorted(x.addressable_shards, key=_first_row)
            parts = [np.asarray(shard.data) for shard in shards]
            if self.mode == 'pmap':  # x is [devices, B / devices, ...]
                parts = [part.reshape(x.shape[1:]) for part in parts]
            return np.concatenate(parts)

        return jax.tree.map(fetch, tree)

    def map_rows(self, fn: Callable, *, row_args: tuple[int, ...], num_args: int) -> Callable:
        """Maps a per-device function whose results have a row for each row of its arguments.

        It serves a single process, whose devices share the rows. On one device it is `jit`.

        Args:
          fn: takes `num_args` positional arguments. It uses no collective.
          row_args: positions of arguments whose leading axis is split over the devices (from
            `put_rows`). All further arguments are replicated.
          num_args: number of arguments.
        """
        if self.count == 1:
            return self.jit(fn)
        in_specs = tuple(P(AXIS) if i in row_args else P() for i in range(num_args))
        mapped = jax.shard_map(
            fn, mesh=self.mesh, in_specs=in_specs, out_specs=P(AXIS), check_vma=False
        )
        return self.jit(mapped)

    def put_rows(self, tree: PyTree) -> PyTree:
        """Splits the leading axis of host arrays over the devices of a single process."""
        if self.count == 1:
            return jax.device_put(tree, self.devices[0])
        return jax.device_put(tree, NamedSharding(self.mesh, P(AXIS)))

    def whole_batch(self, rows: int) -> int:
        """Returns the smallest number of rows >= `rows` that the devices can share evenly."""
        return -(-rows // self.count) * self.count

    def put_replicated(self, tree: PyTree) -> PyTree:
        """Puts a host tree, which is the same in every process, onto all devices."""
        # Use the sharding that a step returns. Another one would compile the step twice.
        if self.mode == 'pmap':
            local = [d for d in self.devices if d.process_index == jax.process_index()]
            return jax.device_put(tree, NamedSharding(Mesh(np.array(local), (AXIS,)), P()))
        sharding = NamedSharding(self.mesh, P())
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree
        )

    def check_batch_size(self, where: str, batch_size: int, accumulate: int = 1) -> None:
        """Raises InputError unless every device gets the same number of whole micro-batches.

        Args:
          where: config key of the batch size, for the error.
          batch_size: examples of the global batch.
          accumulate: micro-batches per device.
        """
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
        """Returns whether the topology has all devices of all processes."""
        return set(self.devices) == set(jax.devices())


def topology(
    mode: str = 'pmap', max_devices: int | None = None, options: tuple[tuple[str, str], ...] = ()
) -> Topology:
    """Returns the topology over all devices, or over the first `max_devices` of one process."""
    return Topology(mode, tuple(jax.devices()[:max_devices]), options)


def _first_row(shard: Any) -> int:
    """Returns the position of a shard's first row along the leading axis of its array."""
    first = shard.index[0]
    return (first.start or 0) if isinstance(first, slice) else first


def to_host(tree: PyTree) -> PyTree:
    """Returns a replicated tree as numpy arrays."""

    def fetch(x):
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return np.asarray(x.addressable_data(0))
        return np.asarray(x)

    return jax.tree.map(fetch, tree)


def is_main() -> bool:
    """Returns whether this is the main process, which alone writes files."""
    return jax.process_index() == 0


def check_single_process(where: str) -> None:
    """Raises InputError if the program runs in several processes.

    Args:
      where: the flag that needs a single process, as '--mode predict'.
    """
    if jax.process_count() > 1:
        raise InputError(
            where,
            got=f'{jax.process_count()} processes',
            expected='one process',
            fix='start it without --coordinator and --distributed',
        )


def barrier(name: str) -> None:
    """Waits for all processes."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def of_main(number: int) -> int:
    """Broadcasts the main process's value of `number` to all processes."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def bytes_of_main(data: bytes) -> bytes:
    """Broadcasts the bytes of the main process to all processes.

    A file that the main process has just written may become visible to another host much later.

    Args:
      data: read in the main process alone.
    """
    if jax.process_count() == 1:
        return data
    size = of_main(len(data))
    buffer = np.zeros(size, np.uint8)
    if is_main():
        buffer[:] = np.frombuffer(data, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(buffer)).tobytes() if size else b''


def sum_over_processes(values: np.ndarray) -> np.ndarray:
    """Sums a vector over all processes, in float64 and in the order of the processes.

    All processes must call this function at the same place.

    Args:
      values: [N] float64, with the same N in every process.
    """
    if jax.process_count() == 1 or not values.size:
        return values
    # JAX would round float64 to float32. Bytes keep every digit.
    gathered = np.asarray(multihost_utils.process_allgather(values.view(np.uint8)))
    return np.ascontiguousarray(gathered).view(np.float64).sum(0)


def in_any_process(flag: bool) -> bool:
    """Returns in all processes whether `flag` is true in any process.

    All processes must call this function at the same place.
    """
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.int32(flag))))


# --- Inside a mapped function ---------------------------------------------------------------------


def device_index() -> jax.Array:
    """Returns the position of this device among all devices of all processes."""
    return lax.axis_index(AXIS)


def sum_over_devices(tree: PyTree) -> PyTree:
    """Sums each leaf over all devices, such as the sums and counts of metrics."""
    return lax.psum(tree, AXIS)


def all_rows(x: jax.Array) -> jax.Array:
    """Gathers the rows of all devices in the order of the global batch, on every device.

    [B, ...] becomes [devices * B, ...].
    """
    return lax.all_gather(x, AXIS, tiled=True)


def own_rows(x: jax.Array) -> jax.Array:
    """Returns this device's share of rows that are equal on all devices. Inverts `all_rows`."""
    rows = x.shape[0] // lax.axis_size(AXIS)
    return lax.dynamic_slice_in_dim(x, device_index() * rows, rows)


def replica_mismatch(tree: PyTree) -> jax.Array:
    """Counts the numbers of a tree that differ between devices in any bit."""

    def differing(x):
        bits = x.astype(jnp.int32) if x.dtype == bool else x
        if jnp.issubdtype(bits.dtype, jnp.floating):
            bits = lax.bitcast_convert_type(bits, jnp.dtype(f'int{8 * bits.dtype.itemsize}'))
        return jnp.sum(lax.pmax(bits, AXIS) != lax.pmin(bits, AXIS))

    counts: list[jax.Array] = jax.tree.leaves(jax.tree.map(differing, tree))
    return sum(counts, jnp.int32(0))


def global_value_and_grad(
    loss_fn: Callable,
    weight_of: Callable[[str], float],
    accumulate: int = 1,
    shared: Collection[str] = (),
) -> Callable:
    """Returns a function that computes value and gradient of a weighted sum of global means.

    L = sum_t w_t * sum_devices(sum_t) / sum_devices(count_t)

    Args:
      loss_fn: (params, model_state, batch, keys) -> (terms, model_state, aux), per device. `terms`
        maps a name to a `Mean`. The count of a `Mean` may depend on the data (ignored pixels, mined
        pixels) but gets no gradient. A term without any count on all devices adds 0.
      weight_of: name of a term -> w_t. The `__getitem__` of a dict refuses unknown names.
      accumulate: micro-batches into which the device's batch is cut. The result is that of the
        whole batch, because counts are summed before gradients. If counts depend on labels only,
        XLA removes the net from that pass. `model_state` (batch statistics) is handed from one
        micro-batch to the next. `aux` keeps the order of the rows.
      shared: names of the keys that are equal in all micro-batches (`Stage.shared_streams`). All
        further keys are folded with the number of the micro-batch.

    Returns:
      (params, model_state, batch, keys) -> ((loss, terms, model_state, aux), grads). Loss and grads
      are global and equal on all devices. Terms are those of this device.
    """
    device_grad = functools.partial(_device_value_and_grad, loss_fn, weight_of)
    if accumulate == 1:
        return functools.partial(_whole_batch, device_grad)
    return functools.partial(_micro_batches, loss_fn, device_grad, accumulate, shared)


def _global_counts(terms: Mapping[str, Mean]) -> dict[str, jax.Array]:
    """Sums the counts of the terms over all devices."""
    return {name: lax.stop_gradient(lax.psum(term.count, AXIS)) for name, term in terms.items()}


def _weighted_sum(
    terms: Mapping[str, Mean],
    counts: Mapping[str, jax.Array],
    weight_of: Callable[[str], float],
) -> jax.Array | int:
    """Returns this device's share of the loss: sum_t w_t * sum_t / global count_t."""
    return sum(
        weight_of(name) * term.sum / jnp.where(counts[name] > 0, counts[name], 1)
        for name, term in terms.items()
    )


def _device_value_and_grad(
    loss_fn: Callable,
    weight_of: Callable[[str], float],
    params: PyTree,
    model_state: PyTree,
    batch: PyTree,
    keys: Mapping[str, jax.Array],
    counts: Mapping[str, jax.Array] | None = None,
):
    """Computes this device's share of the loss and of its gradient.

    Args:
      loss_fn, weight_of: as in `global_value_and_grad`.
      params, model_state, batch, keys: arguments of `loss_fn`.
      counts: global counts of the whole batch; None: those of `batch`.

    Returns:
      ((share of the loss, terms, model_state, aux), share of the gradient).
    """

    def objective(params):
        terms, state, aux = loss_fn(params, model_state, batch, keys)
        all_counts = _global_counts(terms) if counts is None else counts
        return _weighted_sum(terms, all_counts, weight_of), (terms, state, aux)

    (loss, (terms, state, aux)), grads = jax.value_and_grad(objective, has_aux=True)(params)
    return (loss, terms, state, aux), grads


def _whole_batch(device_grad: Callable, params, model_state, batch, keys):
    """Sums the shares of all devices. See `global_value_and_grad`."""
    (loss, terms, state, aux), grads = device_grad(params, model_state, batch, keys)
    loss, grads = lax.psum((loss, grads), AXIS)
    return (loss, terms, state, aux), grads


def _micro_batches(
    loss_fn: Callable,
    device_grad: Callable,
    accumulate: int,
    shared: Collection[str],
    params,
    model_state,
    batch,
    keys,
):
    """Sums the shares of all micro-batches and devices. See `global_value_and_grad`."""
    parts = split_rows(batch, accumulate)

    # First pass: the global counts of the whole batch, by which the sum of each part is divided.
    def count(i, part):
        terms, _, _ = loss_fn(params, model_state, part, _keys_of_part(keys, i, shared))
        return i + 1, {name: term.count for name, term in terms.items()}

    _, part_counts = lax.scan(count, 0, parts)
    counts = lax.psum(jax.tree.map(lambda x: x.sum(0), part_counts), AXIS)

    # Second pass: the gradients. Batch statistics go from each micro-batch to the next.
    def accumulate_part(carry, part):
        i, state, grads = carry
        part_keys = _keys_of_part(keys, i, shared)
        (loss, terms, state, aux), part_grads = device_grad(params, state, part, part_keys, counts)
        return (i + 1, state, jax.tree.map(jnp.add, grads, part_grads)), (loss, terms, aux)

    zeros = jax.tree.map(jnp.zeros_like, params)
    (_, state, grads), (losses, terms, aux) = scan_parts(
        accumulate_part, (0, model_state, zeros), parts
    )
    loss, grads = lax.psum((losses.sum(), grads), AXIS)
    terms = {name: Mean(term.sum.sum(0), term.count.sum(0)) for name, term in terms.items()}
    aux = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), aux)  # [A, B / A, ...] to [B, ...]
    return (loss, terms, state, aux), grads


def scan_parts(
    step: Callable, carry: PyTree, parts: PyTree, in_loop: bool | None = None
) -> tuple[PyTree, PyTree]:
    """Computes gradients of micro-batches one after another: `lax.scan(step, carry, parts)`.

    XLA:CPU is slow at gradients of convolutions that stand in a loop. A narrow DeepLab-LargeFOV
    took 11 times as long. So a CPU gets a copy of the step for each micro-batch, in an order that
    keeps the arrays of a single micro-batch in memory.

    Args:
      step: (carry, part) -> (carry, outputs).
      carry: sums of gradients, and other arrays.
      parts: micro-batches [A, ...].
      in_loop: whether a loop runs the steps. None: on all devices but a CPU.

    Returns:
      (the last carry, outputs [A, ...]).
    """
    if in_loop is None:
        in_loop = jax.default_backend() != 'cpu'
    if in_loop:
        return lax.scan(step, carry, parts)
    number = len(jax.tree.leaves(parts)[0])
    outputs = []
    for i in range(number):
        part = jax.tree.map(operator.itemgetter(i), parts)
        carry, output = step(carry, _after(carry, part) if i else part)
        outputs.append(output)
    return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)


def _after(earlier: PyTree, part: PyTree) -> PyTree:
    """Returns a micro-batch that XLA can only read when earlier arrays have been computed.

    XLA:CPU ignores `lax.optimization_barrier` when it chooses the order. So the micro-batch depends
    on the arrays: it is 0 after gradients that are infinite.
    """
    arrays = [jnp.asarray(leaf) for leaf in jax.tree.leaves(earlier)]
    firsts = [x.ravel()[0].astype(jnp.float32) for x in arrays if x.size]
    is_infinite = sum(firsts, jnp.float32(0)) == jnp.inf
    return jax.tree.map(lambda x: jnp.where(is_infinite, jnp.zeros_like(x), x), part)


def split_rows(batch: Mapping[str, jax.Array], parts: int) -> PyTree:
    """Cuts the rows of a batch into equal parts: [B, ...] becomes [parts, B / parts, ...].

    Raises:
      ValueError: a number of rows is no multiple of `parts`.
    """
    rows = {key: x.shape[0] for key, x in batch.items()}
    if any(number % parts for number in rows.values()):
        raise ValueError(
            f'micro-batches need rows in multiples of {parts} in every entry, got {rows}'
        )
    return jax.tree.map(lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), batch)


def _keys_of_part(
    keys: Mapping[str, jax.Array], i: jax.Array, shared: Collection[str]
) -> dict[str, jax.Array]:
    """Folds all keys except the shared keys with the number of the micro-batch."""
    own = {name: key for name, key in keys.items() if name not in shared}
    return {**keys, **jax.tree.map(lambda key: jax.random.fold_in(key, i), own)}

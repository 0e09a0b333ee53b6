"""Heap, convolutions and cores, each in a process of its own where it would change this process."""

import os
import subprocess
import sys
import textwrap

import compiler
import jax
import jaxlib.version
import ml_collections
import numpy as np
import pytest

from segjax.core import host, parallel
from segjax.errors import InputError

OPTION = 'xla_cpu_experimental_ynn_fusion_type'
FAULTS = """
    import resource
    import numpy as np
    from segjax.core import host

    def faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(4):
            np.ones(2 ** 24, np.float32)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    kept = host.keep_heap()
    faults()
    print(kept, faults())
"""


def chosen(convolutions, **net):
    return ml_collections.ConfigDict({'parallel': {'cpu_convolutions': convolutions}, 'model': net})


def in_a_process(script, **environment):
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(p for p in sys.path if p), **environment}
    command = [sys.executable, '-c', textwrap.dedent(script)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(sys.platform != 'linux', reason="the setting is glibc's")
@pytest.mark.parametrize(
    'environment, kept',
    [({}, True), ({'SEGJAX_KEEP_HEAP': '0'}, False), ({'MALLOC_ARENA_MAX': '8'}, False)],
)
def test_memory_that_was_freed_is_not_faulted_in_again(environment, kept):
    process = in_a_process(FAULTS, **environment)
    was_kept, faults = process.stdout.split()
    assert was_kept == str(kept), process.stderr
    pages = 4 * 2**26 // os.sysconf('SC_PAGE_SIZE')
    assert int(faults) < pages / 100 if kept else was_kept == 'False'


def test_another_value_of_the_variable_is_refused(monkeypatch):
    monkeypatch.setenv('SEGJAX_KEEP_HEAP', 'no')
    with pytest.raises(InputError, match='0 or 1'):
        host.keep_heap()


def test_the_heap_of_a_gpu_run_is_left_alone(monkeypatch):
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    assert not host.keep_heap() and host.compiler_options(chosen('xla')) == ()


@pytest.mark.parametrize('mode', ['pmap', 'shard_map'])
@pytest.mark.parametrize('convolutions, fusions', [('ynn', 1), ('xla', 0)])
def test_the_choice_of_convolutions_reaches_the_program(mode, convolutions, fusions):
    image, kernel = np.ones((1, 16, 16, 64), np.float32), np.ones((3, 1, 64, 64), np.float32)

    def convolve(kernel, batch):
        dimensions = ('NHWC', 'HWIO', 'NHWC')
        return jax.lax.conv_general_dilated(
            batch['x'], kernel, (1, 1), 'SAME', dimension_numbers=dimensions
        )

    topology = parallel.topology(mode, 1, host.compiler_options(chosen(convolutions)))
    program = (
        topology.spmd(convolve, num_args=2)
        .lower(kernel, topology.put_batch({'x': image}))
        .compile()
    )
    assert program.as_text().count('"__ynn_fusion"') == fusions


@pytest.mark.parametrize('mode', ['pmap', 'shard_map'])
def test_a_step_with_options_is_traced_once(mode):
    topology = parallel.topology(mode, 4, host.compiler_options(chosen('xla')))
    traces = []

    def step(state, batch):
        traces.append(1)
        return {'sum': state['sum'] + parallel.sum_over_devices(batch['x'].sum())}

    step = topology.spmd(step, num_args=2, donate=(0,))
    state = topology.put_replicated({'sum': np.float32(0)})
    for _ in range(3):
        before = state
        state = jax.block_until_ready(
            step(before, topology.put_batch({'x': np.ones(4, np.float32)}))
        )
        assert before['sum'].is_deleted(), 'its memory is free for the new state'
    assert len(traces) == 1 and state['sum'] == 12


@pytest.mark.parametrize(
    'version, net, expected',
    [
        ('0.10.2', dict(name='erfnet', width=1.0), 'xla'),
        ('0.10.2', dict(name='erfnet', width=0.75), 'xla'),
        ('0.10.2', dict(name='a net without a width'), 'xla'),
        ('0.10.2', dict(name='erfnet', width=0.5), None),
        ('0.11.0', dict(name='erfnet', width=1.0), None),
        ('0.12.0.1', dict(name='erfnet', width=1.0), None),
    ],
)
def test_auto_follows_jaxlib_and_the_width_of_the_net(version, net, expected, monkeypatch):
    monkeypatch.setattr(jaxlib.version, '__version__', version)
    assert host.compiler_options(chosen('auto', **net)) == (
        host.compiler_options(chosen(expected)) if expected else ()
    )


def test_flags_of_the_user_win(monkeypatch):
    monkeypatch.setenv('XLA_FLAGS', f'--{OPTION}=-individual_convolution')
    assert host.compiler_options(chosen('ynn')) == host.compiler_options(chosen('xla')) == ()


def test_a_jaxlib_without_the_option_is_answered(monkeypatch):
    monkeypatch.setattr(host, '_OPTION', 'xla_cpu_no_such_option')
    with pytest.raises(InputError, match='cpu_convolutions=auto'):
        host.compiler_options(chosen('xla'))


def test_flags_of_the_tests_start_this_jaxlib():
    script = 'import jax; jax.devices(); print(len(jax.devices()))'
    process = in_a_process(script, XLA_FLAGS=compiler.devices(2))
    assert process.stdout.split() == ['2'], process.stderr


@pytest.mark.parametrize(
    'version, known', [('0.10.2', True), ('0.11.2', False), ('0.12.0.1', False)]
)
def test_a_flag_is_set_only_where_jaxlib_knows_it(version, known):
    assert ('fusion_emitters' in compiler.quickly(version)) == known


@pytest.mark.parametrize(
    'files, limit',
    [
        ({'cpu.max': '150000 100000'}, 2),
        ({'cpu.max': '10000 100000'}, 1),
        ({'cpu.max': 'max 100000'}, None),
        ({'cpu.max': '900000000 100000'}, None),
        ({'cpu/cpu.cfs_quota_us': '100000', 'cpu/cpu.cfs_period_us': '100000'}, 1),
        ({'cpu/cpu.cfs_quota_us': '-1', 'cpu/cpu.cfs_period_us': '100000'}, None),
        ({}, None),
    ],
)
def test_cores_are_those_that_a_container_may_use(tmp_path, monkeypatch, files, limit):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda process: set(range(64)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + '\n')
    assert host.cores(tmp_path) == (limit or 64)

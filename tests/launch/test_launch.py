"""launch/ on one machine: every script's flags and errors, env.sh, local.sh, test.sh."""

import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = sorted(
    p.relative_to(REPOSITORY).as_posix() for p in (REPOSITORY / 'launch').rglob('*.sh')
)


# --- all scripts ----------------------------------------------------------------------------------


@pytest.mark.parametrize('script', [*SCRIPTS, '.ci/run'])
def test_parses_and_is_strict(script):
    subprocess.run(['bash', '-n', REPOSITORY / script], check=True)
    if not script.endswith('lib.sh'):
        assert 'set -euo pipefail' in (REPOSITORY / script).read_text()
        assert os.access(REPOSITORY / script, os.X_OK)


def test_shellcheck():
    if shutil.which('shellcheck') is None:
        pytest.skip('no shellcheck on PATH')
    command = ['shellcheck', '-x', '-P', 'SCRIPTDIR', *SCRIPTS, '.ci/run']
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


HELPFUL = [
    'env.sh',
    'local.sh',
    'test.sh',
    'device_check.sh',
    'slurm.sh',
    'tpu_pod.sh',
    'tpu_worker.sh',
    'gke/submit.sh',
]


@pytest.mark.parametrize('script', HELPFUL)
def test_help_is_the_header_and_changes_nothing(tree, script):
    result = tree.run(script, '--help')
    assert 'usage: bash launch/' + script in result.stdout
    assert not tree.called() and not tree.venv.exists()


GKE = [
    '--name=n',
    '--image=i',
    '--claim=c',
    '--config=configs/streets.py',
    '--workdir=/mnt/segjax/r',
]
TPU = ['--name=n', '--zone=z']
TABLE = ['--mode=table', '--table=configs/tables/two.py']


@pytest.mark.parametrize(
    ('script', 'arguments', 'message'),
    [
        ('env.sh', ['--quite'], 'unknown argument --quite'),
        ('local.sh', ['--config'], 'no value'),
        (
            'local.sh',
            ['--config=configs/strets.py:quick'],
            'configs/strets.py, which does not exist',
        ),
        ('local.sh', ['--mode=table', '--table'], 'no value'),
        (
            'local.sh',
            ['--mode=table', '--table=configs/tables/non.py'],
            'configs/tables/non.py, which does not exist',
        ),
        ('slurm.sh', [], '--config'),
        ('slurm.sh', ['--config', 'configs/streets.py'], '--workdir'),
        ('slurm.sh', ['--config', '--workdir', 'w'], 'the next flag, --workdir'),
        (
            'slurm.sh',
            ['--config=configs/none.py', '--workdir=w'],
            'configs/none.py, which does not exist',
        ),
        ('slurm.sh', ['--config=configs/streets.py', '--workdir=w', '--nodes=two'], 'two'),
        (
            'slurm.sh',
            ['--config=configs/streets.py', '--workdir=w', '--processes=core'],
            'gpu or node',
        ),
        ('slurm.sh', ['--config=configs/streets.py', '--workdir=w', '--seed=3'], 'after a bare --'),
        ('slurm.sh', ['--mode=table', '--workdir=w'], '--table'),
        (
            'slurm.sh',
            ['--mode=table', '--table=configs/tables/non.py', '--workdir=w'],
            'tables/non.py, which does not',
        ),
        ('slurm.sh', ['--table=configs/tables/two.py', '--workdir=w'], '--mode table'),
        (
            'slurm.sh',
            ['--mode=tabel', '--table=configs/tables/two.py', '--workdir=w'],
            'with --mode tabel',
        ),
        (
            'slurm.sh',
            [*TABLE, '--config=configs/streets.py', '--workdir=w'],
            'rows of a table name their configs',
        ),
        ('tpu_pod.sh', ['start'], 'create, sync, run'),
        ('tpu_pod.sh', ['create', '--zone=z'], 'TPU_NAME'),
        ('tpu_pod.sh', ['create', *TPU, '--dry-run'], 'TPU_TYPE'),
        (
            'tpu_pod.sh',
            ['run', *TPU, '--dry-run', '--config=configs/none.py', '--workdir=/w'],
            'none.py',
        ),
        (
            'tpu_pod.sh',
            ['run', *TPU, '--dry-run', '--config=configs/streets.py', '--workdir=/w'],
            'git add',
        ),
        (
            'tpu_pod.sh',
            ['run', *TPU, '--dry-run', *TABLE, '--workdir=/w'],
            'configs/tables/two.py, then sync',
        ),
        ('tpu_worker.sh', ['begin'], 'begin'),
        ('gke/submit.sh', ['cpu'], 'gpu or tpu'),
        ('gke/submit.sh', ['gpu', *GKE[1:]], '--name'),
        ('gke/submit.sh', ['gpu', *GKE, '--name=Big_Name'], 'lower-case'),
        ('gke/submit.sh', ['gpu', *GKE, '--workdir=/runs/r'], 'below /mnt/segjax'),
        ('gke/submit.sh', ['gpu', *GKE, *TABLE], 'rows of a table name their configs'),
        ('gke/submit.sh', ['gpu', *GKE, '--topology=4x4'], 'unknown argument --topology'),
        ('gke/submit.sh', ['tpu', *GKE, '--topology=4*4'], 'AxB'),
        ('gke/submit.sh', ['tpu', *GKE, '--topology=2x3'], 'a divisor of the 6 chips'),
        ('test.sh', [], 'SEGJAX_TEST_JOBS'),
        ('device_check.sh', ['--out'], 'no value'),
        ('device_check.sh', ['--minutes=0'], 'a whole number > 0'),
        ('device_check.sh', ['--fast'], 'unknown argument --fast'),
        ('device_check.sh', [], 'no Python that imports jax'),
    ],
)
def test_wrong_input_says_got_and_expected(tree, script, arguments, message):
    error = tree.run(script, *arguments, code=1, SEGJAX_TEST_JOBS='many').stderr
    assert message in error and 'got:' in error and 'expected:' in error
    assert not tree.called() and not tree.venv.exists()


# --- env.sh ---------------------------------------------------------------------------------------


def test_env_installs_once(tree):
    first = tree.run('env.sh')
    assert tree.called() == ['venv', 'pip jax[cpu]']
    assert len(first.stderr.splitlines()) == 1 and 'jax[cpu]' in first.stderr and first.stdout == ''
    assert (tree.venv / '.gitignore').read_text() == '*\n'

    def again() -> float:
        started = time.monotonic()
        assert tree.run('env.sh', '--quiet').stderr == ''
        return time.monotonic() - started

    assert min(again() for _ in range(3)) < 0.3
    assert len(tree.called()) == 2


CHANGES = [
    'requirements',
    'constraints',
    'newest versions',
    'accelerator',
    'python',
    'interpreter removed',
]


@pytest.mark.parametrize('change', CHANGES)
def test_env_is_made_again_after_a_change(tree, change):
    tree.run('env.sh')
    (tree.venv / 'stale').touch()
    env = {}
    if change == 'requirements':
        (tree.root / 'requirements.txt').write_text('jax>=0.11\n')
    elif change == 'constraints':
        (tree.root / 'constraints.txt').write_text('jax==0.10.1\n')
    elif change == 'newest versions':
        env['SEGJAX_LATEST'] = '1'
    elif change == 'accelerator':
        env['SEGJAX_ACCELERATOR'] = 'tpu'
    elif change == 'python':
        tree.stamp.write_text(tree.stamp.read_text().replace('python 3.', 'python 2.', 1))
    else:
        (tree.venv / 'bin/python').unlink()
    tree.run('env.sh', **env)
    assert tree.called()[2:] == [
        'venv',
        'pip jax[tpu]' if change == 'accelerator' else 'pip jax[cpu]',
    ]
    assert not (tree.venv / 'stale').exists()
    tree.run('env.sh', **env)
    assert len(tree.called()) == 4


@pytest.mark.parametrize('uv', [False, True])
def test_env_installs_the_versions_that_are_known_to_work(tree, uv):
    if uv:
        tree.tool('uv', '')
    constrained = [
        '-r',
        str(tree.root / 'requirements.txt'),
        '-c',
        str(tree.root / 'constraints.txt'),
        'jax[cpu]',
    ]
    assert tree.commands(tree.run('env.sh', '--dry-run').stdout)[-1][-5:] == constrained
    newest = tree.commands(tree.run('env.sh', '--dry-run', SEGJAX_LATEST='1').stdout)[-1]
    assert newest[-3:] == [*constrained[:2], 'jax[cpu]'] and '-c' not in newest
    assert '0 or 1' in tree.run('env.sh', code=1, SEGJAX_LATEST='yes').stderr


def test_constraints_cover_the_requirements_and_pin_no_accelerator():
    lines = [
        line.partition('#')[0].strip()
        for line in (REPOSITORY / 'constraints.txt').read_text().splitlines()
    ]
    pins = {
        canonicalize_name(name): version
        for name, _, version in (line.partition('==') for line in lines if line)
    }
    assert all(pins.values()), 'one version each'
    for line in (REPOSITORY / 'requirements.txt').read_text().splitlines():
        wanted = line.partition('#')[0].strip()
        if wanted:
            requirement = Requirement(wanted)
            assert pins[canonicalize_name(requirement.name)] in requirement.specifier
    assert not [name for name in pins if name.startswith(('nvidia', 'jax-', 'libtpu', 'segjax'))]
    assert pins['jax'] == pins['jaxlib']


def test_env_failed_install_leaves_no_stamp(tree):
    error = tree.run('env.sh', code=1, PIP_CODE='1').stderr
    assert 'pip says no' in error and 'fix:' in error and 'WARNING: Location' not in error
    assert not tree.stamp.exists()
    tree.run('env.sh')
    assert tree.stamp.exists() and len(tree.called()) == 4


def test_env_killed_install_is_made_again(tree):
    process = tree.start('env.sh', PIP_SECONDS='30')
    tree.wait_for(lambda: len(tree.called()) == 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not tree.stamp.exists()
    tree.run('env.sh')
    assert tree.stamp.exists()


def test_env_concurrent_calls_install_once(tree):
    first = tree.start('env.sh', PIP_SECONDS='0.5')
    tree.wait_for(lambda: len(tree.called()) == 2)
    second = tree.start('env.sh')
    errors = [process.communicate(timeout=30)[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), errors
    assert 'waiting' in errors[1] and tree.called() == ['venv', 'pip jax[cpu]']


@pytest.mark.parametrize(
    ('gpus', 'build'),
    [
        ('580.65.06, 9.0', 'cuda13'),
        ('580.65.06, 12.0', 'cuda13'),
        ('580.65.06, 7.5', 'cuda13'),
        ('580.65.06, 7.0', 'cuda12'),  # CUDA 13 has no Volta
        ('580.65.06, 9.0\n580.65.06, 6.1', 'cuda12'),
        ('535.104.05, 8.0', 'cuda12'),
    ],
)
def test_env_picks_the_cuda_build(tree, gpus, build):
    tree.tool('nvidia-smi', f'echo "{gpus}"')
    assert tree.commands(tree.run('env.sh', '--dry-run').stdout)[-1][-1] == f'jax[{build}]'
    assert not tree.venv.exists()


def test_env_accelerators_other_than_cuda(tree):
    def last_word(**env):
        return tree.commands(tree.run('env.sh', '--dry-run', **env).stdout)[-1][-1]

    assert last_word(TPU_WORKER_ID='0') == 'jax[tpu]'
    tree.tool('nvidia-smi', 'echo "NVIDIA-SMI has failed"; exit 9')
    assert last_word() == 'jax[cpu]'
    tree.tool('nvidia-smi', 'case $* in *compute_cap*) exit 2 ;; *) echo 470.57.02 ;; esac')
    assert 'version 470.57.02' in tree.run('env.sh', '--dry-run', code=1).stderr
    assert last_word(SEGJAX_ACCELERATOR='cpu') == 'jax[cpu]'
    assert 'one of cpu cuda12' in tree.run('env.sh', code=1, SEGJAX_ACCELERATOR='gpu').stderr


def test_env_picks_a_python_that_works(tree):
    tree.tool('python3.13', 'echo "shim: no such version" >&2; exit 127')
    tree.tool('python3.12', 'case $* in *ensurepip*) exit 1 ;; *) exec python3 "$@" ;; esac')
    assert tree.commands(tree.run('env.sh', '--dry-run').stdout)[0][0] == str(tree.bin / 'python3')
    error = tree.run('env.sh', '--dry-run', code=1, PYTHON='python3.12').stderr
    assert 'python3.12 has no venv' in error and 'python3.13' not in error
    tree.tool(
        'python3', 'case $* in *version_info\\ *) exit 1 ;; *identi*) ;; *) echo "3.9 /usr" ;; esac'
    )
    error = tree.run('env.sh', code=1).stderr
    assert 'python3.13 does not run' in error and 'python3 is 3.9' in error and 'PYTHON=' in error
    assert not tree.called()


def test_env_leaves_a_foreign_folder_alone(tree):
    (tree.venv / 'bin').mkdir(parents=True)
    assert 'did not make' in tree.run('env.sh', code=1).stderr
    assert [p.name for p in tree.venv.iterdir()] == ['bin'] and not tree.called()
    tree.run('env.sh', SEGJAX_VENV='other place')
    assert (tree.cwd / 'other place/segjax.stamp').exists()


def test_env_leaves_a_linked_environment_alone(tree):
    """An environment that checkouts share is used, and is made again in its own place alone."""
    place = tree.cwd / 'shared place'
    tree.run('env.sh', SEGJAX_VENV=str(place))
    tree.venv.symlink_to(place)
    tree.run('env.sh')
    calls = tree.called()

    (tree.root / 'constraints.txt').write_text('jax==0.10.1\n')
    before = (place / 'segjax.stamp').read_text()
    for arguments in ([], ['--dry-run']):
        error = tree.run('env.sh', *arguments, code=1).stderr
        assert f'a link to {place}, which is not up to date' in error
    assert (place / 'segjax.stamp').read_text() == before and tree.called() == calls

    fix = error.partition('there: ')[2].strip()
    variable, *command = shlex.split(fix)
    assert command == ['bash', 'launch/env.sh']
    tree.run('env.sh', **dict([variable.split('=', 1)]))
    tree.run('env.sh')
    assert (place / 'segjax.stamp').read_text() != before and len(tree.called()) > len(calls)


def test_env_leaves_a_link_to_nothing_alone(tree):
    tree.venv.symlink_to(tree.cwd / 'gone')
    error = tree.run('env.sh', code=1).stderr
    assert 'a link to a folder that does not exist' in error and not tree.called()


def test_env_uses_uv(tree):
    tree.recorder('uv', 'mkdir -p "$HOME/.x"; [ "$1" != venv ] || { mkdir -p "${@: -1}/bin"; '
                        'cp "$(command -v python3)" "${@: -1}/bin/python"; }')  # fmt: skip
    tree.run('env.sh')
    venv, pip = (shlex.split(line) for line in tree.called())
    assert venv[:2] == ['uv', 'venv'] and venv[-1] == str(tree.venv)
    assert pip[:3] == ['uv', 'pip', 'install'] and pip[-1] == 'jax[cpu]'
    assert str(tree.root / 'requirements.txt') in pip


def test_env_sourced_activates_and_keeps_the_shell_options(tree):
    tree.run('env.sh')
    (tree.venv / 'bin/activate').write_text('active=yes')
    script = shlex.quote(str(tree.root / 'launch/env.sh'))
    line = f'source {script} --quiet; echo "$active $-"; false; echo alive'
    result = subprocess.run(['bash', '-c', line], env=tree.env, capture_output=True, text=True)
    assert result.stdout.split() == ['yes', 'hBc', 'alive'], result.stderr


# --- local.sh, test.sh ----------------------------------------------------------------------------


def test_local_runs_main_where_it_is_called(ready):
    (ready.cwd / 'mine.py').touch()
    arguments = ['--config', 'mine.py:quick,a=b', '--workdir', 'a run', '--config.x=(1, 2)']
    ready.run('local.sh', *arguments)
    seen = ready.main_saw()
    mine = str(ready.cwd / 'mine.py')
    assert seen['argv'] == [f'--config={mine}:quick,a=b', *arguments[2:]]
    assert seen['cwd'] == str(ready.cwd)
    assert seen['env']['PYTHONPATH'] == str(ready.root)
    assert seen['env']['JAX_COMPILATION_CACHE_DIR'] == str(ready.home / '.cache/segjax/jax')


def test_local_needs_no_home(ready):
    del ready.env['HOME']
    ready.run('local.sh', '--config', 'configs/streets.py')
    assert 'JAX_COMPILATION_CACHE_DIR' not in ready.main_saw()['env']


def test_local_finds_configs_of_the_repository_from_everywhere(ready):
    ready.run('local.sh', '--config', 'configs/streets.py:quick')
    assert ready.main_saw()['argv'] == [f'--config={ready.root}/configs/streets.py:quick']


@pytest.mark.parametrize(
    'given', [['--table', 'configs/tables/paper.py'], ['--table=configs/tables/paper.py']]
)
def test_local_finds_tables_of_the_repository_from_everywhere(ready, given):
    (ready.root / 'configs/tables/paper.py').touch()
    ready.run('local.sh', '--mode', 'table', *given, '--scale', 'quick')
    expected = [
        '--mode',
        'table',
        f'--table={ready.root}/configs/tables/paper.py',
        '--scale',
        'quick',
    ]
    assert ready.main_saw()['argv'] == expected


def test_local_takes_its_own_segjax_not_the_one_in_the_current_folder(ready):
    (ready.cwd / 'segjax').mkdir()
    (ready.cwd / 'segjax/__init__.py').touch()
    (ready.cwd / 'segjax/main.py').write_text('raise SystemExit(9)')
    ready.run('local.sh')


def test_local_passes_the_exit_code_and_signals(ready):
    ready.run('local.sh', code=7, MAIN_CODE='7')
    ready.seen.unlink()
    process = ready.start('local.sh', MAIN_SECONDS='30')
    assert ready.main_saw()['pid'] == process.pid  # exec: no shell in between
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 75


def test_local_dry_run_prints_everything_and_does_nothing(tree):
    out = tree.run(
        'local.sh', '--dry-run', '--config', 'configs/streets.py', '--workdir', 'a run'
    ).stdout
    venv, pip, main = tree.commands(out)
    assert venv[1:3] == ['-m', 'venv'] and pip[-1] == 'jax[cpu]'
    assert main[0] == 'env' and main[4:7] == [str(tree.venv / 'bin/python'), '-m', 'segjax.main']
    assert main[7:] == [f'--config={tree.root}/configs/streets.py', '--workdir', 'a run']
    assert not tree.called() and not tree.venv.exists() and not tree.seen.exists()


@pytest.mark.parametrize('jobs', ['1', '3', ''])
def test_test_runs_every_check_and_the_tests_last(ready, jobs):
    ready.recorder(
        'checker',
        'case "$*" in -ISc*) ;; *pytest*) echo "5 passed"; exit "${TESTS:-0}" ;; '
        '*"ruff check"*) exit "${RUFF:-0}" ;; esac',
    )
    env = {'SEGJAX_PYTHON': str(ready.bin / 'checker'), 'SEGJAX_TEST_JOBS': jobs}
    result = ready.run('test.sh', 'tests/a b', '-k', 'x', **env)
    modules = [shlex.split(c)[2:] for c in ready.called() if ' -m ' in c]
    assert modules[0] == ['ruff', 'check', '.'] and modules[1] == ['ruff', 'format', '--check', '.']
    assert modules[2][0] == 'compileall'
    workers = (
        [] if jobs == '1' else ['-n', jobs or '2', '--dist', 'loadfile', '--no-loadscope-reorder']
    )
    assert modules[3:] == [['pytest', *workers, 'tests/a b', '-k', 'x']]
    assert result.stdout.splitlines()[-1] == '5 passed'
    assert ready.run('test.sh', code=5, TESTS='5', **env)
    failed = ready.run('test.sh', code=1, RUFF='1', **env)
    assert '5 passed' in failed.stdout and 'ruff check' in failed.stderr


def with_tests(tree, **files: str) -> dict[str, str]:
    """Puts files into the tests folder of a tree, and returns the environment.

    The folder has the conftest of the project.
    """
    folder = tree.root / 'tests'
    folder.mkdir()
    (tree.root / 'segjax/pipelines.py').write_text('REGISTRY = {}\n')
    (tree.root / 'segjax/main.py').write_text('')
    (tree.root / 'segjax/train').mkdir()
    (tree.root / 'segjax/train/checks.py').write_text('problems = None\n')
    (folder / 'helpers').mkdir()
    for name in ('conftest.py', 'helpers/compiler.py', 'helpers/parameter_shapes.py'):
        shutil.copy(REPOSITORY / 'tests' / name, folder / name)
    shutil.copy(REPOSITORY / 'pyproject.toml', tree.root)
    for name, text in files.items():
        (folder / f'{name}.py').write_text(text)
    return {'SEGJAX_PYTHON': sys.executable, 'SEGJAX_TEST_JOBS': '1'}


DIES = """import os


def die():
    os.write(2, b'unknown flag --xla_no_such\\n')
    os._exit(1)
"""
DIES_IN_A_TEST = DIES + '\n\ndef test_dies():\n    die()\n'
FAILS = "import os\n\n\ndef test_it():\n    os.write(2, b'noise')\n    assert not 1\n"
DIES_AT_ONCE = DIES + '\n\ndie()\n'


@pytest.mark.parametrize('text', [DIES_IN_A_TEST, DIES_AT_ONCE], ids=['in a test', 'at import'])
def test_test_says_how_pytest_died(tree, text):
    env = with_tests(tree, test_it=text)
    error = tree.run('test.sh', code=1, **env).stderr
    assert 'pytest died with exit code 1 before its summary' in error
    assert 'unknown flag --xla_no_such' in error


@pytest.mark.slow
def test_test_says_that_a_worker_died(tree):
    pytest.importorskip('xdist')
    env = with_tests(tree, test_it=DIES_IN_A_TEST) | {'SEGJAX_TEST_JOBS': '2'}
    error = tree.run('test.sh', code=1, **env).stderr
    assert 'a process that ran tests died' in error and 'unknown flag --xla_no_such' in error


def test_test_that_jax_cannot_start_says_why(tree):
    env = with_tests(tree, test_it='import jax\n\n\ndef test_it():\n    jax.devices()\n')
    error = tree.run('test.sh', code=1, XLA_FLAGS='--xla_no_such=1', **env).stderr
    assert 'before its summary' in error and 'xla_no_such' in error


def test_test_that_fails_needs_no_explanation(tree):
    env = with_tests(tree, test_it=FAILS)
    result = tree.run('test.sh', code=1, **env)
    assert '1 failed' in result.stdout and result.stderr == ''
    assert 'noise' in tree.run('test.sh', '-s', code=1, **env).stderr


ON_CPU = """import jax
import pytest


@pytest.mark.devices(2)
def test_marked():
    assert len(jax.devices()) > 1


@pytest.mark.parametrize('devices', [1, 2])
def test_parametrised(devices):
    assert len(jax.devices('cpu')) >= devices
"""


def test_tests_run_on_the_cpu_and_skip_where_devices_are_missing(tree):
    env = with_tests(tree, test_it=ON_CPU) | {'JAX_PLATFORMS': 'no_such_platform'}
    assert '3 passed' in tree.run('test.sh', **env).stdout
    one = '--xla_force_host_platform_device_count=1'
    assert '1 passed, 2 skipped' in tree.run('test.sh', **env, XLA_FLAGS=one).stdout


def test_tests_run_on_the_platform_of_the_variable(tree):
    env = with_tests(tree, test_it=ON_CPU) | {'SEGJAX_TEST_PLATFORM': 'no_such_platform'}
    assert 'no_such_platform' in tree.run('test.sh', code=1, **env).stdout


def test_ci_runs_the_tests():
    jobs = yaml.safe_load((REPOSITORY / '.github/workflows/ci.yml').read_text())['jobs']
    run = [step['run'] for job in jobs.values() for step in job['steps'] if 'run' in step]
    assert {'ruff check .', 'ruff format --check .', 'bash launch/test.sh'} <= set(run)
    assert 'bash launch/test.sh' in (REPOSITORY / '.ci/run').read_text()
    matrix = jobs['test']['strategy']['matrix']
    assert {'3.11', '3.12', '3.13'} == set(matrix['python-version'])
    assert {'python-version': '3.13', 'latest': '1'} in matrix['include']


@pytest.mark.parametrize('trouble', ['', 'no Python', 'no network', 'tests fail'])
def test_ci_runs_some_tests_with_the_newest_versions(tree, trouble):
    (tree.root / '.ci').mkdir()
    shutil.copy(REPOSITORY / '.ci/run', tree.root / '.ci')
    seen = 'echo "$SEGJAX_LATEST $SEGJAX_ACCELERATOR $*" >>"$CALLS"'
    env_code = int(trouble == 'no network')
    (tree.root / 'launch/env.sh').write_text(f'{seen}; exit {env_code}')
    newest_code = int(trouble == 'tests fail')
    (tree.root / 'launch/test.sh').write_text(f'{seen}; [ -z "$1" ] || exit {newest_code}')
    if trouble != 'no Python':
        tree.tool('python3.13', 'exit 0')
    tree.tool('timeout', 'shift; exec "$@"')
    env = tree.env | {'SEGJAX_LATEST': '', 'SEGJAX_ACCELERATOR': ''}
    command = ['bash', tree.root / '.ci/run']
    result = subprocess.run(command, env=env, capture_output=True, text=True)
    assert result.returncode == newest_code, result.stderr
    calls = tree.called()
    assert calls[-1].strip() == '', 'the whole suite with the usual versions comes last'
    newest = [call for call in calls if call.startswith('1 cpu')]
    assert len(newest) == {'no Python': 0, 'no network': 1}.get(trouble, 2)
    said = {'no Python': 'no Python 3.13', 'no network': 'not be installed', 'tests fail': 'failed'}
    assert said.get(trouble, '') in result.stdout

"""launch/ on clusters: Slurm, TPU pods, Kubernetes; dry runs, and whole runs against stubs."""

import os
import pathlib
import shlex
import signal
import subprocess

import pytest
import yaml

GKE = [
    '--name=n',
    '--image=i',
    '--claim=c',
    '--config=configs/streets.py',
    '--workdir=/mnt/segjax/r',
]
TABLE = ['--mode', 'table', '--table', 'configs/tables/two.py']


# --- Slurm ----------------------------------------------------------------------------------------


def test_slurm_submits_one_process_per_gpu(tree):
    tree.recorder('sbatch')
    arguments = [
        '--config',
        'configs/streets.py:quick',
        '--workdir',
        'a run',
        '--nodes',
        '2',
        '--gpus-per-node=4',
    ]
    arguments += [
        '--time',
        '1:00:00',
        '--partition',
        'gpu',
        '--sbatch',
        '--constraint=a100',
        '--',
        '--config.x=a b',
    ]
    make, submit = tree.commands(tree.run('slurm.sh', '--dry-run', *arguments).stdout)
    workdir = str(tree.cwd / 'a run')
    assert (
        make == ['mkdir', '-p', workdir]
        and not pathlib.Path(workdir).exists()
        and not tree.called()
    )
    assert submit[:3] == ['env', f'SEGJAX_VENV={tree.root}/.venv-slurm', 'sbatch']
    script = submit.index(f'{tree.root}/launch/slurm_job.sh')
    assert {
        '--job-name=segjax-streets', f'--chdir={tree.root}', '--nodes=2', '--ntasks-per-node=4',
        '--gpus-per-node=4', '--cpus-per-task=8', '--time=1:00:00', '--partition=gpu',
        '--constraint=a100',
        f'--output={workdir}/slurm-%j.log',
    } <= set(submit[3:script])  # fmt: skip
    config = f'--config={tree.root}/configs/streets.py:quick'
    assert submit[script + 1 :] == [config, f'--workdir={workdir}', '--config.x=a b']
    tree.run('slurm.sh', *arguments)
    assert shlex.split(tree.called()[0]) == submit[2:] and pathlib.Path(workdir).is_dir()


def test_slurm_submits_one_process_per_node(tree):
    arguments = [
        '--config=configs/streets.py',
        '--workdir=w',
        '--gpus-per-node=8',
        '--processes=node',
        '--dry-run',
    ]
    submit = tree.commands(tree.run('slurm.sh', *arguments).stdout)[1]
    assert {'--nodes=1', '--ntasks-per-node=1', '--gpus-per-node=8', '--cpus-per-task=64'} <= set(
        submit
    )


def test_slurm_submits_a_table(tree):
    arguments = [*TABLE, '--workdir=/w', '--dry-run', '--', '--scale', 'quick', '--rows=^a b$']
    submit = tree.commands(tree.run('slurm.sh', *arguments).stdout)[1]
    script = submit.index(f'{tree.root}/launch/slurm_job.sh')
    assert '--job-name=segjax-two' in submit[:script]
    table = f'--table={tree.root}/configs/tables/two.py'
    assert submit[script + 1 :] == [
        '--mode=table',
        table,
        '--workdir=/w',
        '--scale',
        'quick',
        '--rows=^a b$',
    ]


@pytest.fixture
def job(ready):
    """Returns a tree inside an allocation.

    srun runs task 2 of 4, scancel signals its process, squeue says STATE.
    """
    ready.cwd = ready.root  # what --chdir does
    ready.tool(
        'scontrol', 'echo "scontrol $*" >>"$CALLS"; [ "$1" = requeue ] || printf "node7\\nnode9\\n"'
    )
    ready.tool('squeue', 'echo "${STATE:-RUNNING}"')
    ready.tool('scancel', 'echo "scancel $*" >>"$CALLS"; kill -TERM "$(cat "$HOME/task")"')
    ready.tool(
        'srun',
        'echo $$ >"$HOME/task"; '
        'while [[ $1 == --* ]]; do echo "srun $1" >>"$CALLS"; shift; done; '
        'SLURM_PROCID=2 SLURM_LOCALID=0 exec "$@"',
    )
    ready.env |= {'SLURM_JOB_ID': '20005', 'SLURM_JOB_NODELIST': 'node[7,9]', 'SLURM_NTASKS': '4'}
    ready.env |= {
        'SLURM_NTASKS_PER_NODE': '2',
        'SLURM_GPUS_PER_NODE': 'h100:2',
        'SLURM_CPUS_PER_TASK': '8',
    }
    return ready


REQUEUED = 'scontrol requeue 20005'


def test_slurm_job_tells_each_process_who_it_is(job):
    job.run('slurm_job.sh', '--workdir=/a run')
    seen = job.main_saw()
    expected = [
        '--process_id=2',
        '--coordinator=node7:12005',
        '--num_processes=4',
        '--workdir=/a run',
    ]
    assert seen['argv'] == expected
    assert seen['env']['JAX_LOCAL_DEVICE_IDS'] == '0'
    assert {'srun --kill-on-bad-exit=0', 'srun --cpus-per-task=8'} <= set(job.called())
    assert REQUEUED not in job.called()


def test_slurm_job_with_one_process_per_node_gives_it_all_gpus(job):
    job.run('slurm_job.sh', SLURM_NTASKS_PER_NODE='1')
    assert job.main_saw()['env']['JAX_LOCAL_DEVICE_IDS'] == '0,1'


@pytest.mark.parametrize(('code', 'requeued'), [(0, False), (1, False), (75, True)])
def test_slurm_job_is_requeued_when_it_was_preempted_only(job, code, requeued):
    job.run('slurm_job.sh', code=code, MAIN_CODE=str(code))
    assert (REQUEUED in job.called()) == requeued


@pytest.mark.parametrize(('state', 'requeued'), [('RUNNING', True), ('COMPLETING', False)])
def test_slurm_job_forwards_sigterm(job, state, requeued):
    process = job.start('slurm_job.sh', MAIN_SECONDS='30', STATE=state)
    job.main_saw()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 75
    assert 'scancel --signal=TERM 20005' in job.called()
    assert (REQUEUED in job.called()) == requeued  # COMPLETING: its user cancelled it


def test_slurm_job_is_requeued_although_saving_takes_too_long(job):
    process = job.start('slurm_job.sh', MAIN_SECONDS='30', MAIN_SAVES='30', SEGJAX_GRACE='0.1')
    task = job.main_saw()['pid']
    process.send_signal(signal.SIGTERM)
    job.wait_for(lambda: REQUEUED in job.called())
    assert process.poll() is None
    os.kill(task, signal.SIGKILL)
    process.communicate(timeout=20)
    assert process.returncode == 137


# --- TPU ------------------------------------------------------------------------------------------


@pytest.fixture
def pod(ready):
    """gcloud as a stub: the only worker is this machine, with a home folder of its own."""
    ready.env |= {'TPU_NAME': 'pod', 'TPU_ZONE': 'z', 'TPU_TYPE': 'v4-32', 'TPU_VERSION': 'base'}
    ready.recorder(
        'gcloud',
        r"""
for word in "$@"; do case $word in --command=*) command=${word#--command=} ;; esac; done
case "$*" in
  *describe*) [ -z "${TROUBLE:-}" ] || { echo "ERROR: $TROUBLE" >&2; exit 1; }; echo READY ;;
  *'tpu-vm scp'*) cp "$5" "$HOME/segjax.tgz" ;;
  *'tpu-vm ssh'*) cd "$HOME" && bash -c "$command" ;;
esac""",
    )
    git = ['git', '-C', str(ready.root), '-c', 'user.name=a', '-c', 'user.email=b']
    subprocess.run([*git, 'init', '-q'], check=True)
    subprocess.run([*git, 'add', '.'], check=True)
    return ready


def test_tpu_dry_runs(pod):
    def dry(*arguments, last=()):
        return pod.commands(pod.run('tpu_pod.sh', *arguments, '--dry-run', *last).stdout)

    vm = ['gcloud', 'compute', 'tpus', 'tpu-vm']
    create = [*vm, 'create', 'pod', '--zone=z', '--accelerator-type=v4-32', '--version=base']
    assert dry('create') == [create]
    assert dry('create', '--spot', '--project=p') == [
        [*create[:7], '--project=p', *create[7:], '--spot']
    ]
    queued = ['gcloud', 'compute', 'tpus', 'queued-resources']
    assert dry('create', '--queued') == [
        [
            *queued,
            'create',
            'pod',
            '--node-id=pod',
            '--zone=z',
            '--accelerator-type=v4-32',
            '--runtime-version=base',
        ]
    ]
    assert dry('delete') == [[*vm, 'delete', 'pod', '--zone=z', '--quiet']]
    assert dry('delete', '--queued') == [
        [*queued, 'delete', 'pod', '--zone=z', '--force', '--quiet']
    ]
    (run,) = dry(
        'run', '--config=configs/streets.py:quick', '--workdir=/r', last=['--', '--config.x=a b']
    )
    assert run[:-1] == [*vm, 'ssh', 'pod', '--zone=z', '--worker=all']
    assert shlex.split(run[-1].removeprefix('--command=')) == [
        'bash', 'segjax/launch/tpu_worker.sh', 'start',
        '--config=configs/streets.py:quick', '--workdir=/r', '--config.x=a b',
    ]  # fmt: skip
    (table,) = dry('run', *TABLE, '--workdir=/r', last=['--', '--scale=quick'])
    assert shlex.split(table[-1].removeprefix('--command='))[3:] == [
        '--mode=table', '--table=configs/tables/two.py', '--workdir=/r', '--scale=quick',
    ]  # fmt: skip
    assert dry('logs', '--worker=3', '--follow')[0][6:] == [
        '--zone=z',
        '--worker=3',
        '--command=tail -n 100 -f segjax-run/log',
    ]
    assert not pod.called()


@pytest.mark.parametrize('command', ['create', 'delete'])
def test_tpu_create_and_delete_can_be_repeated(pod, command):
    def acts():
        return [line for line in pod.called() if f'tpu-vm {command}' in line]

    pod.run('tpu_pod.sh', command)
    assert len(acts()) == (command == 'delete')  # it is there already
    pod.run('tpu_pod.sh', command, TROUBLE='NOT_FOUND: pod')
    assert len(acts()) == 1
    assert (
        'PERMISSION' in pod.run('tpu_pod.sh', command, code=1, TROUBLE='PERMISSION_DENIED').stderr
    )
    assert len(acts()) == 1


def test_tpu_sync_run_status_stop(pod):
    (pod.root / 'untracked').touch()
    (pod.root / 'requirements.txt').unlink()  # deleted, but git still tracks it
    pod.run('tpu_pod.sh', 'sync')
    copy = pod.home / 'segjax'
    assert (copy / 'segjax/main.py').exists() and not (copy / 'untracked').exists()
    assert 'no training' in pod.run('tpu_pod.sh', 'status').stdout

    env = {'MAIN_SECONDS': '60'}
    run = ['run', '--config=configs/streets.py', '--workdir=/a run', '--', "--config.x=it's (1, 2)"]
    assert 'started' in pod.run('tpu_pod.sh', *run, **env).stdout
    seen = pod.main_saw()
    config = f'--config={copy}/configs/streets.py'
    assert seen['argv'] == ['--distributed', config, '--workdir=/a run', "--config.x=it's (1, 2)"]
    assert 'runs already' in pod.run('tpu_pod.sh', *run, **env).stdout
    assert 'a training that runs' in pod.run('tpu_pod.sh', 'sync', code=1).stderr
    assert 'running' in pod.run('tpu_pod.sh', 'status').stdout
    assert 'main was here' in pod.run('tpu_pod.sh', 'logs').stdout
    assert 'exit code 75' in pod.run('tpu_pod.sh', 'stop').stdout
    assert 'exit code 75' in pod.run('tpu_pod.sh', 'stop').stdout  # and once more
    with pytest.raises(ProcessLookupError):
        os.kill(seen['pid'], 0)
    pod.run('tpu_pod.sh', 'sync')


@pytest.mark.parametrize(
    'workdir, fix',
    [
        (
            'gs://bucket/a run',
            'gcsfuse bucket /mnt/bucket on every host, then --workdir=/mnt/bucket/a\\ run',
        ),
        ('s3://bucket/r', 'mount the storage on every host, then --workdir=/mnt/bucket/r'),
    ],
)
@pytest.mark.parametrize(
    'script', [['tpu_pod.sh', 'run'], ['slurm.sh'], ['gke/submit.sh', 'gpu', *GKE[:3]]]
)
def test_an_address_is_no_workdir(pod, script, workdir, fix):
    arguments = [*script, '--config=configs/streets.py', '--workdir', workdir, '--dry-run']
    result = pod.run(*arguments, code=1)
    assert f'--workdir\n  got:      {workdir}' in result.stderr and not result.stdout
    assert fix in result.stderr or (
        'gke' in script[0] and 'a folder below /mnt/segjax' in result.stderr
    )
    assert not pod.called() and not list(pod.cwd.iterdir())


# --- GKE ------------------------------------------------------------------------------------------


@pytest.fixture
def gke(tree):
    tree.tool('python3', f'exec {tree.real_python} "$@"')
    tree.tool('kubectl', 'echo "$*" >"$CALLS"; cat >>"$CALLS"')
    return tree


def pod_of(jobset: dict) -> tuple[dict, dict, dict]:
    (replicated,) = jobset['spec']['replicatedJobs']
    job = replicated['template']['spec']
    return replicated, job, job['template']['spec']


def test_gke_gpu_jobset(gke):
    arguments = [
        'gpu',
        *GKE,
        '--nodes=3',
        '--gpus-per-node=4',
        '--gpu-type=nvidia-l4',
        '--grace=60',
    ]
    arguments += ['--', '--config.x=a: "b"', '$(HOME) #']
    jobset = yaml.safe_load(gke.run('gke/submit.sh', 'gpu', '--dry-run', *arguments[1:]).stdout)
    assert not gke.called()
    assert (jobset['kind'], jobset['metadata']['name']) == ('JobSet', 'n')
    replicated, job, pod = pod_of(jobset)
    assert (
        replicated['replicas'],
        job['parallelism'],
        job['completions'],
        job['backoffLimit'],
    ) == (1, 3, 3, 0)
    assert pod['restartPolicy'] == 'Never' and pod['terminationGracePeriodSeconds'] == 60
    assert pod['nodeSelector'] == {'cloud.google.com/gke-accelerator': 'nvidia-l4'}
    (train,) = pod['containers']
    assert train['resources']['limits'] == {'nvidia.com/gpu': 4}
    assert train['args'] == [
        '--coordinator=$(COORDINATOR)', '--num_processes=3', '--process_id=$(JOB_COMPLETION_INDEX)',
        '--config=configs/streets.py', '--workdir=/mnt/segjax/r', '--config.x=a: "b"', '$$(HOME) #',
    ]  # fmt: skip
    env = {item['name']: item['value'] for item in train['env']}
    replica = replicated['name']
    assert env['COORDINATOR'] == f'n-{replica}-0-0.{jobset["spec"]["network"]["subdomain"]}:12345'
    assert env['JAX_LOCAL_DEVICE_IDS'] == '0,1,2,3'
    saved, evicted = job['podFailurePolicy']['rules']
    assert saved['action'] == 'Ignore' and saved['onExitCodes']['values'] == [75]
    assert saved['onExitCodes']['containerName'] == train['name']
    assert evicted['onPodConditions'][0]['type'] == 'DisruptionTarget'
    gke.run('gke/submit.sh', *arguments)
    first, *applied = gke.called()
    assert first == 'apply -f -' and yaml.safe_load('\n'.join(applied)) == jobset


def test_gke_jobset_of_a_table(gke):
    arguments = [
        *(a for a in GKE if not a.startswith('--config')),
        *TABLE,
        '--dry-run',
        '--',
        '--seeds=0,1',
    ]
    jobset = yaml.safe_load(gke.run('gke/submit.sh', 'tpu', *arguments).stdout)
    assert pod_of(jobset)[2]['containers'][0]['args'] == [
        '--distributed',
        '--mode=table',
        '--table=configs/tables/two.py',
        '--workdir=/mnt/segjax/r',
        '--seeds=0,1',
    ]


@pytest.mark.parametrize(
    ('topology', 'chips', 'hosts'), [('4x4', 4, 4), ('2x2x2', 4, 2), ('2x4', 8, 1)]
)
def test_gke_tpu_jobset(gke, topology, chips, hosts):
    arguments = [
        *GKE,
        f'--topology={topology}',
        f'--chips-per-host={chips}',
        '--slices=2',
        '--tpu-type=tpu-v6e-slice',
    ]
    jobset = yaml.safe_load(gke.run('gke/submit.sh', 'tpu', *arguments, '--dry-run').stdout)
    replicated, job, pod = pod_of(jobset)
    assert (replicated['replicas'], job['parallelism'], job['completions']) == (2, hosts, hosts)
    assert pod['nodeSelector'] == {
        'cloud.google.com/gke-tpu-accelerator': 'tpu-v6e-slice',
        'cloud.google.com/gke-tpu-topology': topology,
    }
    (train,) = pod['containers']
    assert train['resources']['limits'] == {'google.com/tpu': chips}
    assert train['args'][:2] == ['--distributed', '--config=configs/streets.py']

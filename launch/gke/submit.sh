#!/usr/bin/env bash
# Trains on Google Kubernetes Engine (or any cluster with JobSet): renders a JobSet and applies it.
#
# usage: bash launch/gke/submit.sh gpu|tpu --name NAME --image IMAGE --claim CLAIM --config FILE --workdir FOLDER [flags]
#          [-- ARGUMENTS OF segjax.main]
#
#   bash launch/gke/submit.sh gpu --name cyclegan --image europe-docker.pkg.dev/me/segjax/segjax:1 --claim runs \
#     --config configs/supervised.py --workdir /mnt/segjax/runs/cityscapes --nodes 2 --gpus-per-node 8
#
#   --name NAME           of the JobSet: lower-case letters, digits and -
#   --image IMAGE         built from launch/gke/Dockerfile, with ACCELERATOR=cuda13 or tpu
#   --claim CLAIM         a PersistentVolumeClaim that all pods may write to, mounted at /mnt/segjax
#   --config FILE         experiment, a file of the repository (and so of the image)
#   --mode table --table FILE   instead of --config: the rows of a table; likewise
#   --workdir FOLDER      run folder, below /mnt/segjax
#   --namespace NAME      default: default
#   --cpu N               per pod, default: 16
#   --memory SIZE         per pod, default: 64Gi
#   --restarts N          after crashes, default: 5. Preemptions (exit code 75) are not counted
#   --grace SECONDS       between SIGTERM and SIGKILL, default: 120
# gpu:
#   --nodes N             default: 1
#   --gpus-per-node N     default: 8
#   --gpu-type NAME       label of the node pool, default: nvidia-h100-80gb
# tpu:
#   --tpu-type NAME       label of the node pool, default: tpu-v5-lite-podslice
#   --topology AxB[xC]    chips of a slice, default: 4x4
#   --chips-per-host N    default: 4
#   --slices N            default: 1
#
#   --dry-run             print the command and the rendered JobSet and change nothing
#   --help                this page
#
# Afterwards: kubectl get jobset NAME; kubectl logs -f -l jobset.sigs.k8s.io/jobset-name=NAME; kubectl delete jobset NAME

set -euo pipefail
here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
source "$here/../lib.sh"

name='' image='' claim='' namespace=default cpu=16 memory=64Gi restarts=5 grace=120
nodes=1 gpus=8 gpu_type=nvidia-h100-80gb
tpu_type=tpu-v5-lite-podslice topology=4x4 chips_per_host=4 slices=1
case ${1:-} in
  gpu | tpu) kind=$1 && shift ;;
  --help | -h) usage && exit 0 ;;
  *) die submit.sh "${1:-nothing}" 'gpu or tpu' 'submit.sh --help' ;;
esac
own_flag() {
  case $kind:$1 in
    *:--name) need "$@" && name=$2 ;;
    *:--image) need "$@" && image=$2 ;;
    *:--claim) need "$@" && claim=$2 ;;
    *:--namespace) need "$@" && namespace=$2 ;;
    *:--cpu) need "$@" && cpu=$2 ;;
    *:--memory) need "$@" && memory=$2 ;;
    *:--restarts) need "$@" && restarts=$2 ;;
    *:--grace) need "$@" && grace=$2 ;;
    gpu:--nodes) need "$@" && nodes=$2 ;;
    gpu:--gpus-per-node) need "$@" && gpus=$2 ;;
    gpu:--gpu-type) need "$@" && gpu_type=$2 ;;
    tpu:--tpu-type) need "$@" && tpu_type=$2 ;;
    tpu:--topology) need "$@" && topology=$2 ;;
    tpu:--chips-per-host) need "$@" && chips_per_host=$2 ;;
    tpu:--slices) need "$@" && slices=$2 ;;
    *) return 1 ;;
  esac
}
read_flags "$@"
given --name "$name"
given --image "$image"
given --claim "$claim"
find_experiment
case $name in *[!a-z0-9-]* | -* | *-) die --name "$name" 'lower-case letters, digits and - between them' ;; esac
case $experiment in
  "$root"/*) pass_on "${experiment#"$root/"}" ;;
  *)
    die "$experiment_flag" "$experiment" "a file of $root: the image holds no other" \
      'put it into configs/ and build the image again'
    ;;
esac
case $workdir in
  /mnt/segjax/?*) ;;
  *) die --workdir "$workdir" 'a folder below /mnt/segjax, where --claim is mounted' ;;
esac
case $restarts in *[!0-9]*) die --restarts "$restarts" 'a whole number' ;; esac
for number in "--cpu $cpu" "--grace $grace" "--nodes $nodes" "--gpus-per-node $gpus" \
  "--chips-per-host $chips_per_host" "--slices $slices"; do
  whole "${number%% *}" "${number#* }"
done

values=("NAME=$name" "NAMESPACE=$namespace" "IMAGE=$image" "CLAIM=$claim" "CPU=$cpu" "MEMORY=$memory"
  "RESTARTS=$restarts" "GRACE=$grace")
if [ "$kind" = gpu ]; then
  values+=("NODES=$nodes" "GPUS=$gpus" "GPU_TYPE=$gpu_type" "DEVICES=$(seq -s, 0 $((gpus - 1)))")
else
  [[ $topology =~ ^[1-9][0-9]*(x[1-9][0-9]*)+$ ]] || die --topology "$topology" 'AxB or AxBxC, as 4x4'
  chips=$((${topology//x/*}))
  [ $((chips % chips_per_host)) = 0 ] ||
    die --chips-per-host "$chips_per_host" "a divisor of the $chips chips of --topology $topology"
  values+=("SLICES=$slices" "HOSTS=$((chips / chips_per_host))" "CHIPS=$chips_per_host" "TPU_TYPE=$tpu_type"
    "TOPOLOGY=$topology")
fi

rendered=$(python3 "$here/render.py" "$here/jobset_$kind.yaml" "${values[@]}" -- "${passed_on[@]}")
if [ "$dry_run" = yes ]; then
  printf '# kubectl apply -f - <<JOBSET\n%s\n# JOBSET\n' "$rendered"
else
  kubectl apply -f - <<<"$rendered"
fi

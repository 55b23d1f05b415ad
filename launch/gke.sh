#!/usr/bin/env bash
#
# Prints a JobSet for GKE: one training job, or a grid of runs. It changes nothing by itself:
#
#   launch/gke.sh job --config=configs/xmixup_dogs.py --workdir=gs://my-bucket/dogs | kubectl apply -f -
#   launch/gke.sh grid 108 configs/tables/smile_table2.py --runs=gs://my-bucket/table2 | kubectl apply -f -
#
#   kubectl get jobset mixjax                                                    how it is
#   kubectl logs -f -l jobset.sigs.k8s.io/jobset-name=mixjax --prefix            follow the log
#   kubectl delete jobset mixjax                                                 stop it
#
# The number after `grid` is what `mixjax grid FILE --count` says. With HOSTS=1 TOPOLOGY=2x2 a grid is one
# JobSet whose pods are the runs, AT_ONCE at a time; with more hosts it is a JobSet for each run, which need QUEUE.
#
# The cluster needs the JobSet controller, and Kueue where QUEUE is set. The image is one of launch/Dockerfile.*.
# Pods that are stopped come back and go on from their last checkpoint; wrong input (exit code 2) ends the job.

set -euo pipefail

NAME=${NAME:-mixjax}                             # of the JobSet
IMAGE=${IMAGE:-gcr.io/my-project/mixjax:tpu}     # built from launch/Dockerfile.tpu
ACCELERATOR=${ACCELERATOR:-tpu-v5-lite-podslice} # the node label cloud.google.com/gke-tpu-accelerator
TOPOLOGY=${TOPOLOGY:-4x4}                        # the node label cloud.google.com/gke-tpu-topology: 4x4 is 16 chips
HOSTS=${HOSTS:-4}                                # machines of a slice
CHIPS=${CHIPS:-4}                                # of a machine
AT_ONCE=${AT_ONCE:-4}                            # runs of a grid at the same time (HOSTS=1)
QUEUE=${QUEUE:-}                                 # Kueue's local queue; empty: without Kueue
SPOT=${SPOT:-no}                                 # yes: cheaper machines, which may be taken away
ACCOUNT=${ACCOUNT:-}                             # Kubernetes service account of the pods
MAX_RESTARTS=${MAX_RESTARTS:-50}                 # of a job; of each run of a grid, after failures of its own: 3

help() {
    sed -n '/^#!/d; /^#/!q; s/^#\( \|$\)//p' "$0"
}

fail() {
    echo "gke.sh: $*" >&2
    exit 2
}

# Words as a YAML list.
list() {
    local separator='' word
    for word in "$@"; do
        word=${word//\\/\\\\}
        printf '%s"%s"' "$separator" "${word//\"/\\\"}"
        separator=', '
    done
}

metadata() { # NAME
    echo "apiVersion: jobset.x-k8s.io/v1alpha2"
    echo "kind: JobSet"
    echo "metadata:"
    echo "  name: $1"
    if [ -n "$QUEUE" ]; then
        echo "  labels:"
        echo "    kueue.x-k8s.io/queue-name: $QUEUE"
    fi
    if [ "$HOSTS" -gt 1 ]; then
        echo "  annotations:"
        echo "    # One job has a slice for itself."
        echo "    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool"
    fi
}

pod() { # WORDS: what the container runs
    cat <<YAML
          template:
            spec:
              restartPolicy: Never
              # Longer than a save takes; spot machines give about 30 s.
              terminationGracePeriodSeconds: 60
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $ACCELERATOR
                cloud.google.com/gke-tpu-topology: $TOPOLOGY
YAML
    if [ "$SPOT" = yes ]; then echo '                cloud.google.com/gke-spot: "true"'; fi
    if [ -n "$ACCOUNT" ]; then echo "              serviceAccountName: $ACCOUNT"; fi
    cat <<YAML
              containers:
                - name: mixjax
                  image: $IMAGE
                  args: [$(list "$@")]
                  env:
                    - name: PYTHONUNBUFFERED
                      value: "1"
                  resources:
                    limits:
                      google.com/tpu: $CHIPS
YAML
}

job() { # NAME WORDS: one job of HOSTS processes
    metadata "$1"
    shift
    cat <<YAML
spec:
  # All processes of a job live and die together.
  failurePolicy:
    maxRestarts: $MAX_RESTARTS
    rules:
      - name: wrong-input
        action: FailJobSet
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: slice
      replicas: 1
      template:
        spec:
          parallelism: $HOSTS
          completions: $HOSTS
          completionMode: Indexed
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes:
                  containerName: mixjax
                  operator: In
                  values: [2]
YAML
    pod "$@"
}

# A pod is a run, of its own machine: the index of the pod is the run's.
pods() { # COUNT WORDS
    metadata "$NAME"
    local count=$1
    shift
    cat <<YAML
spec:
  replicatedJobs:
    - name: grid
      replicas: 1
      template:
        spec:
          parallelism: $((AT_ONCE < count ? AT_ONCE : count))
          completions: $count
          completionMode: Indexed
          # A run that fails by itself is tried again; the others do not wait for it.
          backoffLimitPerIndex: 3
          maxFailedIndexes: $count
          podFailurePolicy:
            rules:
              - action: FailIndex
                onExitCodes:
                  containerName: mixjax
                  operator: In
                  values: [2]
              # Stopped by the engine: after a save (42), or before one (143).
              - action: Ignore
                onExitCodes:
                  containerName: mixjax
                  operator: In
                  values: [42, 143]
              - action: Ignore
                onPodConditions:
                  - type: DisruptionTarget
                    status: "True"
YAML
    pod "$@" --run auto
}

[ $((${TOPOLOGY//x/*})) = $((HOSTS * CHIPS)) ] || fail "TOPOLOGY=$TOPOLOGY is not HOSTS=$HOSTS times CHIPS=$CHIPS chips"

command=${1:-help}
[ $# -eq 0 ] || shift
case $command in
    help | -h | --help) help ;;
    job)
        [ $# -gt 0 ] || fail 'job needs the arguments of mixjax train'
        job "$NAME" train "$@" ;;
    grid)
        count=${1:-}
        case $count in '' | 0 | *[!0-9]*) fail 'grid needs the number of runs and a file: grid 108 FILE' ;; esac
        shift
        [ $# -gt 0 ] || fail 'grid needs a file: grid 108 FILE'
        if [ "$HOSTS" = 1 ]; then
            # Pods with an index look like one job of several processes.
            pods "$count" grid "$@" --distributed=off
        else
            for ((index = 0; index < count; index++)); do
                echo '---'
                job "$NAME-$index" grid "$@" --run "$index"
            done
        fi ;;
    *) fail "there is no command '$command'; see launch/gke.sh --help" ;;
esac

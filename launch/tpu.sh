#!/usr/bin/env bash
#
# Cloud TPU by queued resources: one slice, or several of the same kind.
#
#   launch/tpu.sh create            ask for the machines (SPOT=yes: cheaper ones, which may be taken away)
#   launch/tpu.sh wait              until they are there
#   launch/tpu.sh install           copy this source tree to every worker and install it
#   launch/tpu.sh run ARGS          start `mixjax train ARGS` on all workers of the slice
#   launch/tpu.sh grid FILE ARGS    start `mixjax grid FILE ARGS`: slice k of n makes the runs k, k + n, ..
#   launch/tpu.sh log [SLICE]       follow the log of the first worker of a slice (Ctrl-C only stops looking)
#   launch/tpu.sh status            is it running still; the exit code if it is not
#   launch/tpu.sh delete            give the machines back
#   launch/tpu.sh keep run ARGS     all of the above, and again when the machines are taken away, until it is done
#   launch/tpu.sh keep grid FILE ARGS
#
# Settings are the variables below: SPOT=yes ACCELERATOR=v6e-8 launch/tpu.sh create. Work directories must be
# where all machines see them and where they outlive the machines: in a bucket (--workdir=gs://my-bucket/runs/dogs).

set -euo pipefail

NAME=${NAME:-mixjax}                       # of the queued resource; its slices are NAME-0, NAME-1, ..
SLICES=${SLICES:-1}                        # how many
ACCELERATOR=${ACCELERATOR:-v5litepod-16}   # kind and number of chips of a slice
RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite}    # goes with the kind; v6e: v2-alpha-tpuv6e
ZONE=${ZONE:-us-west4-a}                    # one that has such chips
PROJECT=${PROJECT:-}                       # empty: gcloud's own
SPOT=${SPOT:-no}                           # yes: cheaper, taken away at any time
PYTHON_VERSION=${PYTHON_VERSION:-3.12}     # of the workers; one that has a constraints file
POLL=${POLL:-30}                           # seconds between two looks

here=$(cd "$(dirname "$0")/.." && pwd)

fail() {
    echo "tpu.sh: $*" >&2
    exit 2
}

# on SLICE WORKER COMMAND: run a shell command on a worker, or on `all` of them.
on() { gcloud compute tpus tpu-vm ssh "$NAME-$1" --worker="$2" --command="$3" --quiet "${where[@]}"; }

each() {
    local slice
    for ((slice = 0; slice < SLICES; slice++)); do "$@" "$slice"; done
}

create() {
    local how=(--node-id="$NAME-0")
    if [ "$SLICES" -gt 1 ]; then how=(--node-count="$SLICES" --node-prefix="$NAME"); fi
    if [ "$SPOT" = yes ]; then how+=(--spot); fi
    gcloud compute tpus queued-resources create "$NAME" "${how[@]}" \
        --accelerator-type="$ACCELERATOR" --runtime-version="$RUNTIME" "${where[@]}"
}

state() { gcloud compute tpus queued-resources describe "$NAME" --format='value(state.state)' "${where[@]}"; }

wait_for_machines() {
    local now=''
    while true; do
        now=$(state)
        case $now in
            ACTIVE) return 0 ;;
            FAILED) fail "$NAME is $now; gcloud compute tpus queued-resources describe $NAME says why" ;;
            SUSPENDING | SUSPENDED | DELETING)
                echo "tpu.sh: $NAME is $now" >&2
                return 1 ;;
        esac
        echo "$(date +%H:%M:%S) $NAME is ${now:-not there yet}"
        sleep "$POLL"
    done
}

install() {
    local archive
    archive=$(mktemp -d)/mixjax.tar.gz
    tar -czf "$archive" -C "$here" --exclude=__pycache__ \
        setup.py setup.cfg pyproject.toml README.md LICENSE mixjax configs "constraints-py${PYTHON_VERSION/./}.txt"
    each install_on "$archive"
    rm -r "$(dirname "$archive")"
}

# uv, because the machines' own Python is too old.
install_on() {
    gcloud compute tpus tpu-vm scp "$1" "$NAME-$2:mixjax.tar.gz" --worker=all --quiet "${where[@]}"
    on "$2" all "set -e; mkdir -p mixjax; tar -xzf mixjax.tar.gz -C mixjax; cd mixjax
        python3 -m pip install --quiet --user uv
        python3 -m uv venv --quiet --allow-existing --python $PYTHON_VERSION .venv
        python3 -m uv pip install --quiet -p .venv -c constraints-py${PYTHON_VERSION/./}.txt '.[tpu,gcs]'"
}

# background SLICE COMMANDS: start them on all workers, so that they outlive the connection; once at a time.
background() {
    local script
    script=$(printf '%q' "rm -f exit; $2")
    on "$1" all "cd mixjax; flock -n lock true || { echo 'it is running already' >&2; exit 3; }
        nohup setsid flock -n lock bash -c $script >>log 2>&1 </dev/null & sleep 1"
}

# A command that was stopped after a save (42), or by SIGTERM before it could (143), goes on at once.
# shellcheck disable=SC2016 # the workers' shell expands it
again='again() { local code=42; while [ $code = 42 ] || [ $code = 143 ]; do code=0; "$@" || code=$?; done; return $code; }'

run() {
    [ $# -gt 0 ] || fail 'run needs the arguments of mixjax train'
    [ "$SLICES" = 1 ] || fail "run is for one slice, and SLICES is $SLICES; see grid"
    background 0 "$again
        again .venv/bin/mixjax train $(printf '%q ' "$@"); echo \$? >exit"
}

grid() {
    [ $# -gt 0 ] || fail 'grid needs a file'
    each grid_on "$(printf '%q ' "$@")"
}

grid_on() {
    background "$2" "$again
        worst=0
        count=\$(.venv/bin/mixjax grid $1 --count) || worst=\$?
        for ((i = $2; i < \${count:-0}; i += $SLICES)); do
            again .venv/bin/mixjax grid $1 --run \$i || worst=\$?
        done
        echo \$worst >exit"
}

# For each slice `running`, an exit code, or `nothing` where nothing was started.
codes() { each codes_on; }

codes_on() {
    on "$1" 0 'cd mixjax 2>/dev/null || { echo nothing; exit 0; }
        if flock -n lock true; then cat exit 2>/dev/null || echo nothing; else echo running; fi'
}

status() {
    echo "machines: $(state)"
    echo "exit codes, by slice: $(codes | tr '\n' ' ')"
}

delete() { gcloud compute tpus queued-resources delete "$NAME" --force --quiet "${where[@]}"; }

# Queued resources do not come back by themselves: look, and ask for new ones.
keep() {
    while true; do
        state >/dev/null 2>&1 || create
        if "$0" wait; then
            # Each step is a process of its own, which ends at its first error.
            if codes 2>/dev/null | grep -q running || { "$0" install && "$0" "$@"; }; then
                follow || true
            elif [ "$(state)" = ACTIVE ]; then
                fail 'the machines are there and the start failed; delete gives them back'
            fi
        fi
        echo "tpu.sh: the machines are gone; asking for new ones" >&2
        delete || true
        sleep "$POLL"
    done
}

# follow: until all slices are done, then give the machines back and end with the worst code; false if they are gone.
follow() {
    local found
    while [ "$(state)" = ACTIVE ]; do
        found=$(codes) || found=running # a worker that cannot be asked: the state will say why
        if ! grep -q running <<<"$found"; then
            echo "exit codes, by slice: $(tr '\n' ' ' <<<"$found")"
            delete
            exit "$(sort -n <<<"${found//nothing/1}" | tail -n 1)"
        fi
        sleep "$POLL"
    done
    return 1
}

command=${1:-help}
[ $# -eq 0 ] || shift
case $command in
    help | -h | --help)
        sed -n '/^#!/d; /^#/!q; s/^#\( \|$\)//p' "$0"
        exit 0 ;;
    create | wait | install | run | grid | log | status | delete | keep) ;;
    *) fail "there is no command '$command'; see launch/tpu.sh --help" ;;
esac
command -v gcloud >/dev/null || fail 'gcloud is not installed'
[ -n "$PROJECT" ] || PROJECT=$(gcloud config get-value project 2>/dev/null || true)
[ -n "$PROJECT" ] || fail 'which project? PROJECT=.. or gcloud config set project ..'
where=(--zone="$ZONE" --project="$PROJECT")
case $command in
    wait) wait_for_machines ;;
    log) on "${1:-0}" 0 'tail -n 100 -F mixjax/log' ;;
    keep)
        case ${1:-} in run | grid) keep "$@" ;; *) fail 'keep run ARGS, or keep grid FILE ARGS' ;; esac ;;
    *) "$command" "$@" ;;
esac

#!/usr/bin/env bash
# Training on Cloud TPU VMs: make a slice, install on all its hosts, start on all, and go on after a preemption.
#
#     export NAME=soda ZONE=us-central2-b TYPE=v4-32 SHARE=10.0.0.2:/soda
#     bash launch/tpu_vm.sh run --config=configs/imagenet.py --workdir=/mnt/soda/imagenet [flags of soda_jax.main]
#
#     run ...      create, install, start and watch in one; stays until the run comes to its end
#     create       asks for the slice and waits until it is there
#     install      copies this checkout's last commit to every host and installs it
#     start ...    starts the run on every host; with the same workdir it resumes
#     watch ...    waits for the end; makes the slice anew and starts again when it is preempted
#     status       the slice's state and the last lines of the run
#     stop         SIGTERM on every host: the run saves and ends
#     delete       gives the slice back
#
# Environment:
#   NAME, ZONE, TYPE   of the slice; TYPE as `gcloud compute tpus accelerator-types list` names it, e.g. v5litepod-16
#   VERSION            runtime image (chosen by TYPE)
#   PROJECT            (gcloud's default)
#   SPOT               1 for capacity that may be preempted (0)
#   SHARE              HOST:/PATH of an NFS share (Filestore), mounted at /mnt/soda on every host: a slice of several
#                      hosts needs the workdir there, and one that may be preempted too
#   POLL               seconds between looks (60)
#   RETRY_AFTER        a run that fails later than so many seconds after its start is started again (600)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' launch/tpu_vm.sh >&2
    exit 2
}

action="${1:-}"
[[ -n "$action" ]] || usage
shift
: "${NAME:?set NAME, ZONE and TYPE; see launch/tpu_vm.sh}" "${ZONE:?set ZONE}" "${TYPE:?set TYPE}"
poll="${POLL:-60}"
where=("--zone=$ZONE")
[[ -z "${PROJECT:-}" ]] || where+=("--project=$PROJECT")
case "$TYPE" in
    v5litepod-*) image="v2-alpha-tpuv5-lite" ;;
    v5p-*) image="v2-alpha-tpuv5" ;;
    v6e-*) image="v2-alpha-tpuv6e" ;;
    *) image="tpu-ubuntu2204-base" ;;
esac
image="${VERSION:-$image}"

on() { # worker ("all" or a number), command
    gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker="$1" --command="$2"
}

# State of the request, such as ACTIVE or SUSPENDED (preempted); NONE where there is none.
state() {
    gcloud compute tpus queued-resources describe "$NAME" "${where[@]}" --format="value(state.state)" 2>/dev/null ||
        echo NONE
}

create() {
    local options=("--node-id=$NAME" "--accelerator-type=$TYPE" "--runtime-version=$image") now
    [[ "${SPOT:-0}" != 1 ]] || options+=(--spot)
    if [[ "$(state)" == NONE ]]; then
        gcloud compute tpus queued-resources create "$NAME" "${where[@]}" "${options[@]}"
    fi
    while :; do
        now="$(state)"
        case "$now" in
            ACTIVE) return ;;
            FAILED | SUSPENDED | SUSPENDING | NONE)
                echo "launch/tpu_vm.sh: the request for $NAME is $now" >&2
                return 1
                ;;
        esac
        echo "launch/tpu_vm.sh: $NAME is $now"
        sleep "$poll"
    done
}

install() {
    local archive mount=""
    archive="$(mktemp)"
    git archive --format=tar.gz --output="$archive" HEAD
    gcloud compute tpus tpu-vm scp "$archive" "$NAME:soda_jax.tar.gz" "${where[@]}" --worker=all
    rm -f "$archive"
    if [[ -n "${SHARE:-}" ]]; then
        mount="sudo apt-get install -y -q nfs-common && sudo mkdir -p /mnt/soda &&
            { mountpoint -q /mnt/soda || sudo mount -t nfs $(printf %q "$SHARE") /mnt/soda; } &&"
    fi
    # The images bring Python 3.10; uv fetches a newer one.
    on all "set -e; $mount mkdir -p soda_jax && tar xzf soda_jax.tar.gz -C soda_jax && cd soda_jax &&
        python3 -m pip install -q --user uv && ~/.local/bin/uv venv -q --clear --python 3.12 .venv &&
        ~/.local/bin/uv pip install -q -p .venv -e '.[tpu]'"
}

start() { # flags of soda_jax.main
    (($#)) || usage
    on all "cd soda_jax && nohup .venv/bin/python -m soda_jax.main --distributed $(printf '%q ' "$@") \
        > ~/soda_jax.log 2>&1 < /dev/null & echo \$! > ~/soda_jax.pid"
}

workdir_of() {
    local argument
    for argument in "$@"; do
        case "$argument" in --workdir=*)
            printf %q "${argument#--workdir=}"
            return
            ;;
        esac
    done
    echo "launch/tpu_vm.sh: --workdir=... is missing" >&2
    return 2
}

watch() { # flags of soda_jax.main
    local workdir now started=$SECONDS
    workdir="$(workdir_of "$@")"
    while :; do
        sleep "$poll"
        now="$(state)"
        if [[ "$now" != ACTIVE ]]; then
            echo "launch/tpu_vm.sh: $NAME is $now; making it anew"
            # Both may be half done already.
            delete || true
            create || continue
            install || continue
            start "$@" || continue
            started=$SECONDS
        elif on 0 "kill -0 \$(cat soda_jax.pid)" >/dev/null 2>&1; then
            continue
        elif on 0 "cd soda_jax && .venv/bin/python -m soda_jax.tools.finished --workdir=$workdir"; then
            echo "launch/tpu_vm.sh: finished"
            return
        elif [[ "$(state)" == ACTIVE ]]; then
            on 0 "tail -n 20 soda_jax.log" || true
            if ((SECONDS - started < ${RETRY_AFTER:-600})); then
                echo "launch/tpu_vm.sh: the run ended soon after its start; its log is above" >&2
                return 1
            fi
            echo "launch/tpu_vm.sh: the run ended before its last step; starting it again"
            # A host that was repaired comes back without mounts.
            install && start "$@" && started=$SECONDS
        fi
    done
}

delete() {
    gcloud compute tpus queued-resources delete "$NAME" "${where[@]}" --force --quiet
}

case "$action" in
    create) create ;;
    install) install ;;
    start) start "$@" ;;
    watch) watch "$@" ;;
    run)
        workdir_of "$@" >/dev/null
        create
        install
        start "$@"
        watch "$@"
        ;;
    status)
        state
        on 0 "tail -n 5 soda_jax.log"
        ;;
    stop) on all "kill -TERM \$(cat soda_jax.pid)" ;;
    delete) delete ;;
    *) usage ;;
esac

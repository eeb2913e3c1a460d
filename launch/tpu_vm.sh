#!/usr/bin/env bash
# Training on Cloud TPU VMs: make a slice, install on all its hosts, start on all, and go on after a preemption.
#
#     export NAME=soda ZONE=us-central2-b TYPE=v4-32 SHARE=10.0.0.2:/soda
#     bash launch/tpu_vm.sh run --config=configs/imagenet.py --workdir=/mnt/soda/imagenet [flags of soda_jax.main]
#
#     run ...      create, install, start and watch in one; stays until the run comes to its end
#     create       asks for the slice and waits until it is there
#     install      copies this checkout's last commit to every host and installs it
#     start ...    ends what an earlier start left on every host, and starts the run; with the same workdir it resumes
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
#   PATIENCE           seconds without an answer from gcloud or from the first host after which this gives up (3600)
#   GRACE              seconds that start gives what an earlier one left running to save and end, before a kill (60)
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
patience="${PATIENCE:-3600}"
where=("--zone=$ZONE")
[[ -z "${PROJECT:-}" ]] || where+=("--project=$PROJECT")
case "$TYPE" in
    v5litepod-*) image="v2-alpha-tpuv5-lite" ;;
    v5p-*) image="v2-alpha-tpuv5" ;;
    v6e-*) image="v2-alpha-tpuv6e" ;;
    *) image="tpu-ubuntu2204-base" ;;
esac
image="${VERSION:-$image}"

# What gcloud says beside its answer.
errors="$(mktemp)"
trap 'rm -f "$errors"' EXIT

on() { # worker ("all" or a number), command
    gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker="$1" --command="$2"
}

# State of the request, such as ACTIVE or SUSPENDED (preempted). NONE only where gcloud says so: a lost network or an
# expired login tells nothing about the slice, and is UNKNOWN.
state() {
    local now
    if now="$(gcloud compute tpus queued-resources describe "$NAME" "${where[@]}" \
        --format="value(state.state)" 2>"$errors")" && [[ -n "$now" ]]; then
        echo "$now"
    elif grep -q NOT_FOUND "$errors"; then
        echo NONE
    else
        cat "$errors" >&2
        echo UNKNOWN
    fi
}

wait_or_give_up() { # what is wrong, since when
    echo "launch/tpu_vm.sh: $1" >&2
    if ((SECONDS - $2 >= patience)); then
        echo "launch/tpu_vm.sh: giving up; the slice and its run are left as they are: see status, go on with watch" >&2
        return 1
    fi
    sleep "$poll"
}

known_state() {
    local now since=$SECONDS
    while now="$(state)" && [[ "$now" == UNKNOWN ]]; do
        wait_or_give_up "the state of $NAME is unknown" "$since" || return
    done
    echo "$now"
}

create() {
    local options=("--node-id=$NAME" "--accelerator-type=$TYPE" "--runtime-version=$image") now
    [[ "${SPOT:-0}" != 1 ]] || options+=(--spot)
    now="$(known_state)" || return
    if [[ "$now" == NONE ]]; then
        gcloud compute tpus queued-resources create "$NAME" "${where[@]}" "${options[@]}"
    fi
    while :; do
        now="$(known_state)" || return
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
    local archive copied=0 mount=""
    archive="$(mktemp)"
    # Where watch calls this, set -e is off.
    git archive --format=tar.gz --output="$archive" HEAD &&
        gcloud compute tpus tpu-vm scp "$archive" "$NAME:soda_jax.tar.gz" "${where[@]}" --worker=all || copied=$?
    rm -f "$archive"
    ((copied == 0)) || return "$copied"
    if [[ -n "${SHARE:-}" ]]; then
        mount="sudo apt-get install -y -q nfs-common && sudo mkdir -p /mnt/soda &&
            { mountpoint -q /mnt/soda || sudo mount -t nfs $(printf %q "$SHARE") /mnt/soda; } &&"
    fi
    # The images bring Python 3.10; uv fetches a newer one.
    on all "set -e; $mount mkdir -p soda_jax && tar xzf soda_jax.tar.gz -C soda_jax && cd soda_jax &&
        python3 -m pip install -q --user uv && ~/.local/bin/uv venv -q --clear --python 3.12 .venv &&
        ~/.local/bin/uv pip install -q -p .venv -e '.[tpu]'"
}

# On a host: ends what an earlier start left, which would hold the chips. By name as well as by number, since a number
# is free again once its process is gone or the host came back anew.
end_earlier() { # seconds until the kill
    cat <<END
earlier=\$(cat ~/soda_jax.pid 2> /dev/null)
running() { grep -Fqsxz soda_jax.main "/proc/\${earlier:-none}/cmdline"; }
wait_for_it() { left=\$1; while running && [ "\$left" -gt 0 ]; do sleep 1; left=\$((left - 1)); done; }
! running || { kill "\$earlier"; wait_for_it $(printf %q "$1"); }
! running || { kill -9 "\$earlier"; wait_for_it 10; }
END
}

start() { # flags of soda_jax.main
    (($#)) || usage
    # The redirections and \$! must be Python's own. A list before the & would run in a shell between the two, which
    # holds the connection open until the run ends, and takes the signal of stop.
    on all "cd soda_jax || exit
        $(end_earlier "${GRACE:-60}")
        nohup .venv/bin/python -m soda_jax.main --distributed $(printf '%q ' "$@") \
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

# The run on the first host: up, finished or down, and nothing where the host does not answer. It is asked by words: the
# exit code of a lost connection looks like that of a run that has ended.
look() { # workdir, quoted for the shell
    local run
    run="$(on 0 "if { kill -0 \$(cat soda_jax.pid); } 2>/dev/null; then echo up
        elif (cd soda_jax && .venv/bin/python -m soda_jax.tools.finished --workdir=$1) >&2; then echo finished
        else echo down; fi" 2>"$errors" | tail -n 1)" || true
    [[ "$run" == up ]] || cat "$errors" >&2
    echo "$run"
}

watch() { # flags of soda_jax.main
    local workdir now started=$SECONDS silent=""
    workdir="$(workdir_of "$@")"
    while :; do
        sleep "$poll"
        now="$(known_state)" || return
        if [[ "$now" != ACTIVE ]]; then
            echo "launch/tpu_vm.sh: $NAME is $now; making it anew"
            started="" silent=""
            # Both may be half done already.
            delete || true
            create || continue
            install || continue
            start "$@" || continue
            started=$SECONDS
            continue
        fi
        now="$(look "$workdir")"
        case "$now" in
            up) silent="" ;;
            finished)
                echo "launch/tpu_vm.sh: finished"
                return
                ;;
            down)
                silent=""
                # A preemption ends the run before it shows in the state.
                [[ "$(state)" == ACTIVE ]] || continue
                on 0 "tail -n 20 soda_jax.log" || true
                if [[ -n "$started" ]] && ((SECONDS - started < ${RETRY_AFTER:-600})); then
                    echo "launch/tpu_vm.sh: the run ended soon after its start; its log is above" >&2
                    return 1
                fi
                echo "launch/tpu_vm.sh: the run ended before its last step; starting it again"
                # A host that was repaired comes back without mounts.
                install && start "$@" && started=$SECONDS
                ;;
            *)
                silent="${silent:-$SECONDS}"
                wait_or_give_up "host 0 of $NAME does not answer" "$silent" || return
                ;;
        esac
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

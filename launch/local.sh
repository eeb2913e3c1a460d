#!/usr/bin/env bash
# Several processes of one run on this machine: one for each GPU, or on a CPU, to try what a cluster would do. Where
# there are GPUs there must be one for each process, unless JAX_PLATFORMS=cpu.
#
#     bash launch/local.sh 2 --config=configs/quickstart.py --workdir=/tmp/soda_quickstart [flags of soda_jax.main]
#
# Start it in the checkout, in the environment that soda_jax is installed in. Process 0 writes to the terminal as it is,
# the others' lines begin with their number. When one fails, the others end too, by themselves or after GRACE seconds,
# and so does this script, with that one's exit code. SIGTERM and SIGINT are passed on to all as SIGTERM, at which they
# save and end; a second one, two seconds later or more, kills them.
#
# Environment: PYTHON (python), GRACE (120), PORT of the coordinator (a free one), JAX_PLATFORMS (cpu ignores GPUs).
set -euo pipefail

count="${1:-}"
if ! [[ "$count" =~ ^[1-9][0-9]*$ ]] || (($# < 2)); then
    echo "usage: bash launch/local.sh PROCESSES --config=... --workdir=... [flags of soda_jax.main]" >&2
    exit 2
fi
shift
python="${PYTHON:-python}"
grace="${GRACE:-120}"
port="${PORT:-$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')}"

gpus=0
if [[ "${JAX_PLATFORMS:-}" != cpu ]] && command -v nvidia-smi >/dev/null; then
    gpus="$(nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true)"
fi
if ((gpus > 0 && gpus < count)); then
    echo "launch/local.sh: $count processes, but $gpus GPU(s): ask for at most $gpus, or set JAX_PLATFORMS=cpu" >&2
    exit 2
fi

pids=()
for ((k = 0; k < count; k++)); do
    command=("$python" -m soda_jax.main "--coordinator_address=127.0.0.1:$port" "--num_processes=$count"
        "--process_id=$k" "$@")
    # Without it every process would claim every GPU.
    if ((gpus > 0)); then
        command=(env "JAX_LOCAL_DEVICE_IDS=$k" "${command[@]}")
    fi
    if ((k == 0)); then
        "${command[@]}" &
    else
        "${command[@]}" > >(awk -v k="$k" '{ print "[" k "] " $0; fflush() }') 2>&1 &
    fi
    pids+=("$!")
done

sent=""
send() { # signal
    local k
    sent=$1
    for k in "${!pids[@]}"; do
        kill "-$1" "${pids[$k]}" 2>/dev/null || true
    done
}

asked_at=""
# shellcheck disable=SC2329 # the trap calls it
stop() {
    if [[ -z "$asked_at" ]]; then
        asked_at=$SECONDS
        echo "launch/local.sh: the processes save and end; another signal, later, kills them" >&2
        send TERM
    elif ((SECONDS - asked_at > 1)); then # `timeout` sends its signal to the script and then to its group
        send KILL
    fi
}
trap stop TERM INT

status=0
failed_at=""
while ((${#pids[@]})); do
    for k in "${!pids[@]}"; do
        if kill -0 "${pids[$k]}" 2>/dev/null; then
            continue
        fi
        code=0
        wait "${pids[$k]}" 2>/dev/null || code=$?
        unset "pids[$k]"
        # One that was killed is the cause, though another that has lost it may be seen to end in the same moment.
        killed=$((code == 137 && status != 137 && SECONDS - ${failed_at:-0} < 2))
        if ((code != 0 && status == 0)) || { ((killed)) && [[ -z "$sent" ]]; }; then
            status=$code
            failed_at=$SECONDS
            echo "launch/local.sh: process $k of $count ended with code $code; the others stop within $grace s" >&2
        fi
    done
    if [[ -n "$failed_at" ]]; then
        if ((SECONDS - failed_at > grace + 15)); then
            send KILL
        elif ((SECONDS - failed_at > grace)); then
            send TERM
        fi
    fi
    sleep 0.2
done
exit "$status"

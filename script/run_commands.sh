#!/usr/bin/env bash
# Usage: bash script/run_commands.sh < COMMANDS      plain commands, one per line
# Runs the commands one after another or in parallel: GPUS="0 1 2 3" PER_GPU=2 keeps two running on each of four GPUs;
# PER_GPU=2 without GPUS keeps two running on the default device. In parallel, each command has its own log in the
# folder LOGS, and the CPU threads are divided among them unless OMP_NUM_THREADS is set (more threads than cores slow
# every training down). A failed command does not stop the others; the exit status is then 1.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
check_numbers PER_GPU "${PER_GPU:-}"
[[ ${PER_GPU:-1} != *[[:space:]]* ]] || fail "PER_GPU \"$PER_GPU\" should be one whole number, such as 2"

mapfile -t COMMANDS
read -ra GPU_LIST <<<"${GPUS:-}"
export PER_GPU=${PER_GPU:-1} LOGS=${LOGS:-logs}
WORKERS=$((PER_GPU * (${#GPU_LIST[@]} > 0 ? ${#GPU_LIST[@]} : 1)))

# Run the command $2, number $1, on the GPU of this worker's slot.
work() {
    local log=$LOGS/$1.log gpus status=0
    read -ra gpus <<<"${GPUS:-}"
    [ ${#gpus[@]} = 0 ] || export CUDA_VISIBLE_DEVICES=${gpus[SLOT / PER_GPU]}
    echo "started $1: $2"
    bash -c "$2" >"$log" 2>&1 || status=$?
    if [ $status = 0 ]; then
        echo "finished $1"
    else
        echo "failed $1 (status $status), $log: $(tail -n 1 "$log")" >&2
        return 1
    fi
}
export -f work

if [ "$WORKERS" -gt 1 ]; then
    mkdir -p "$LOGS"
    share=$(($(nproc) / WORKERS))
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((share > 0 ? share : 1))}
    export TORCHINDUCTOR_COMPILE_THREADS=${TORCHINDUCTOR_COMPILE_THREADS:-$OMP_NUM_THREADS}
    for index in "${!COMMANDS[@]}"; do
        printf '%s\0' "$((index + 1))" "${COMMANDS[index]}"
    done | xargs -0 -n 2 -P "$WORKERS" --process-slot-var=SLOT bash -c 'work "$@"' work || exit 1
else
    failed=0
    [ ${#GPU_LIST[@]} = 0 ] || export CUDA_VISIBLE_DEVICES=${GPU_LIST[0]}
    for command in "${COMMANDS[@]}"; do
        status=0
        bash -c "$command" </dev/null || status=$?
        case $status in 130 | 143) exit $status ;; esac # interrupted
        [ $status = 0 ] || failed=1
    done
    exit $failed
fi

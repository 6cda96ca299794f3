#!/usr/bin/env bash
# Usage: bash script/slurm.sh FIGURE_SCRIPT [its flags] [-- flags of sbatch]
#   e.g. bash script/slurm.sh script/paper/figure3.sh -- --gres=gpu:1 --cpus-per-task=4 --time=24:00:00
# Submits what the figure lacks as job arrays, a training each, and behind them a job that measures the error barriers
# and draws the figure. A task that is killed or requeued goes on where it was; what was still missing when everything
# has ended is submitted by the same command again. The project's folder has to be the same on every node, on a file
# system with locks (flock), so that two tasks never train the same network.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

[ $# -gt 0 ] && [ -f "$1" ] || fail "name a figure's script, for example script/paper/figure3.sh"
command -v sbatch >/dev/null || fail "there is no sbatch: this has to run where jobs are submitted"
FIGURE=$(realpath "$1") && shift
OWN_FLAGS=()
while [ $# -gt 0 ]; do
    [ "$1" != -- ] || { shift && break; }
    OWN_FLAGS+=("$1") && shift
done

FOLDER=$PROJECT/runs/slurm/$(basename "$FIGURE" .sh)_$(date +%Y%m%d_%H%M%S)_$$
mkdir -p "$FOLDER"
LIST=$FOLDER/commands.txt # of this submission alone: queued tasks read it by line number
bash "$FIGURE" "${OWN_FLAGS[@]}" --list | sed '/^$/d' >"$LIST"
TOTAL=$(wc -l <"$LIST")
MOST=$(scontrol show config | sed -n 's/^MaxArraySize *= *//p')
MOST=$((${MOST:-1001} - 1))

submit() {
    sbatch --parsable --requeue --open-mode=append "$@"
}

# The command of this task. Slurm's own count of processors, not the node's, is how many threads it may use.
TASK='export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_ON_NODE:-1}}
exec bash -c "$(sed -n "$((OFFSET + SLURM_ARRAY_TASK_ID))p" "$LIST")"'
export LIST OFFSET
JOBS=()
for ((OFFSET = 0; OFFSET < TOTAL; OFFSET += MOST)); do
    size=$((TOTAL - OFFSET < MOST ? TOTAL - OFFSET : MOST))
    JOBS+=("$(submit --array="1-$size" --job-name="$(basename "$FIGURE" .sh)" --output="$FOLDER/%A_%a.log" "$@" --wrap "$TASK")")
done
after=$(IFS=: && echo "${JOBS[*]}")
last=$(submit ${after:+--dependency=afterany:$after} --job-name="$(basename "$FIGURE" .sh)_finish" \
    --output="$FOLDER/finish.log" "$@" --wrap "$(printf '%q ' bash "$FIGURE" "${OWN_FLAGS[@]}" --finish)")
echo "submitted $TOTAL trainings (jobs ${JOBS[*]:-none}), then the figure (job $last); logs: $FOLDER"

#!/usr/bin/env bash
# Usage: bash script/slurm.sh FIGURE_SCRIPT [its flags] [-- flags of sbatch]
#   e.g. bash script/slurm.sh script/paper/figure3.sh -- --gres=gpu:1 --cpus-per-task=4 --time=24:00:00
# Submits what the figure lacks as job arrays, in which each task trains a run's levels or the final trainings at one
# level, followed by a job that measures the error barriers and draws the figure. A task that is killed or requeued
# continues where it stopped. If anything is still missing at the end, run the same command again. The project folder
# must be the same on every node, on a file system with locks (flock), so that two tasks never train the same network.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

[ $# -gt 0 ] && [ -f "$1" ] || fail "give a figure's script, for example script/paper/figure3.sh"
command -v sbatch >/dev/null || fail "there is no sbatch: run this where jobs are submitted"
set_up
FIGURE=$(realpath "$1") && shift
OWN_FLAGS=()
while [ $# -gt 0 ]; do
    [ "$1" != -- ] || { shift && break; }
    OWN_FLAGS+=("$1") && shift
done

FOLDER=$PROJECT/runs/slurm/$(basename "$FIGURE" .sh)_$(date +%Y%m%d_%H%M%S)_$$
mkdir -p "$FOLDER"
LIST=$FOLDER/commands.txt # for this submission alone: queued tasks read it by line number
bash "$FIGURE" "${OWN_FLAGS[@]}" --list | sed '/^$/d' >"$LIST"
TOTAL=$(wc -l <"$LIST")
MOST=$(scontrol show config | sed -n 's/^MaxArraySize *= *//p')
MOST=$((${MOST:-1001} - 1))

submit() {
    local id
    id=$(sbatch --parsable --requeue --open-mode=append "$@")
    echo "${id%%;*}" # the cluster's name may follow it
}

# The job scripts contain the settings they need: a cluster may not pass the environment on.
SETTINGS=$(declare -p PYTHON CHECKED_PYTHON)
for name in SCALE FLAGS POINTS; do
    [ -z "${!name:-}" ] || SETTINGS+=$'\n'$(printf 'export %s=%q' "$name" "${!name}")
done
# A task may use as many threads as Slurm gives it CPUs, not as many as the node has.
SETTINGS+=$'\nexport OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_ON_NODE:-1}}'
wrapped() {
    printf '#!/usr/bin/env bash\n%s\n%s\n' "$SETTINGS" "$1"
}

NAME=$(basename "$FIGURE" .sh)
JOBS=()
for ((offset = 0; offset < TOTAL; offset += MOST)); do
    size=$((TOTAL - offset < MOST ? TOTAL - offset : MOST))
    line="\$(sed -n \"\$(($offset + SLURM_ARRAY_TASK_ID))p\" $(printf %q "$LIST"))"
    wrapped "exec bash -c \"$line\"" >"$FOLDER/trainings_$offset.sh"
    JOBS+=("$(submit --array="1-$size" --job-name="$NAME" --output="$FOLDER/%A_%a.log" "$@" "$FOLDER/trainings_$offset.sh")")
done
after=$(IFS=: && echo "${JOBS[*]}")
wrapped "exec $(printf '%q ' bash "$FIGURE" "${OWN_FLAGS[@]}" --finish)" >"$FOLDER/finish.sh"
last=$(submit ${after:+--dependency=afterany:$after} --job-name="${NAME}_finish" --output="$FOLDER/finish.log" "$@" \
    "$FOLDER/finish.sh")
echo "submitted $TOTAL commands (jobs ${JOBS[*]:-none}), then the figure (job $last); logs: $FOLDER"

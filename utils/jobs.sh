# shellcheck shell=bash disable=SC2153,SC2154 # NAME and runs are training.sh's
# How training.sh starts what it starts: on which GPUs, several at once, and so that a signal ends all of it.
# It expects HERE and, for `side_by_side`, NAME, `runs` ("SEED INDEX" each) and a function finetune SLOT SCRIPT SEED INDEX.

stop() {
    echo "training.sh stopped: $*" >&2
    exit 1
}

# The GPUs, and how many of them each run gets
gpus=()
if [[ -n "${CUDA_VISIBLE_DEVICES+set}" ]]; then
    IFS=, read -r -a gpus <<<"$CUDA_VISIBLE_DEVICES"
elif command -v nvidia-smi >/dev/null; then
    while read -r gpu; do
        if [[ "$gpu" =~ ^[0-9]+$ ]]; then gpus+=("$gpu"); fi # a broken driver answers with a sentence
    done < <(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null || true)
fi
JOBS="${JOBS:-$((${#gpus[@]} > 0 ? ${#gpus[@]} : 1))}"
[[ "$JOBS" =~ ^[1-9][0-9]*$ ]] || stop "JOBS is $JOBS, expected a whole number from 1 on"
share=$((${#gpus[@]} / JOBS))
((${#gpus[@]} > 0 && share == 0)) && share=1 # more runs than GPUs: some share one

# launch SLOT SCRIPT ARGUMENT... runs a script on the slot's GPUs
launch() {
    local slot="$1" script="$2" how=()
    shift 2
    if ((share > 0)); then
        local mine=("${gpus[@]:slot*share%${#gpus[@]}:share}")
        local -x CUDA_VISIBLE_DEVICES
        CUDA_VISIBLE_DEVICES="$(IFS=,; echo "${mine[*]}")"
        ((share > 1)) && how=(--multi_gpu --num_processes "$share" --main_process_port 0) # 0: any free one
    fi
    accelerate launch --quiet --config_file "$HERE/accelerate_config.yaml" ${how[@]+"${how[@]}"} "$HERE/$script" "$@"
}

# plain SCRIPT ARGUMENT... runs one that does not train: on one process it need not wait for the launcher
plain() {
    if ((share > 1)); then launch 0 "$@"; else python "$HERE/$1" "${@:2}"; fi
}

# Everything long runs in the background, as a process group of its own, so that a signal ends all of it.
set -m
pids=()
interrupted() {
    local pid waited=0 # for a run that is being trained, which saves its state, but not for ever
    for pid in ${pids[@]+"${pids[@]}"}; do kill -TERM -- "-$pid" 2>/dev/null || true; done
    for pid in ${pids[@]+"${pids[@]}"}; do
        while ((waited++ < 300)) && kill -0 -- "-$pid" 2>/dev/null; do sleep 0.2; done
    done
    stop "interrupted; run the same command again to go on"
}
trap interrupted INT TERM

must() { # NAME COMMAND... stops there when it fails
    local name="$1"
    shift
    echo "== $name"
    "$@" </dev/null &
    pids=("$!")
    wait "$!" || stop "$name failed: mend what it says, then run the same command again; what is done will be skipped"
    pids=()
}

# A worker takes every JOBS-th run; after a failure none begins another one.
failed="$(mktemp)"
trap 'rm -f "$failed"' EXIT
work() { # SLOT
    local k seed i run
    for ((k = $1; k < ${#runs[@]}; k += JOBS)); do
        [[ -s "$failed" ]] && return 1
        read -r seed i <<<"${runs[k]}"
        run="${NAME}_seed${seed}_i${i}"
        echo "== finetune.py, run $((k + 1)) of ${#runs[@]}: $run"
        if ((JOBS == 1)); then
            finetune "$1" finetune.py "$seed" "$i" || echo "$run" >>"$failed"
        elif ! finetune "$1" finetune.py "$seed" "$i" >"logs/training/$run.out" 2>&1; then
            echo "$run" >>"$failed"
            tail -n 20 "logs/training/$run.out" >&2
        fi
    done
}

# side_by_side fine-tunes all `runs`, JOBS at once
side_by_side() {
    mkdir -p logs/training
    if ((JOBS > 1 && share == 0)); then
        cores="$(getconf _NPROCESSORS_ONLN)"
        export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cores > JOBS ? cores / JOBS : 1))}"
    fi
    for ((slot = 0; slot < JOBS; slot++)); do
        work "$slot" </dev/null &
        pids+=("$!")
    done
    for pid in "${pids[@]}"; do wait "$pid" || [[ -s "$failed" ]] || echo "a worker" >>"$failed"; done
    pids=()
    if [[ -s "$failed" ]]; then
        stop "finetune.py failed for $(paste -sd ' ' "$failed"): mend what it says, then run the same command again"
    fi
}

# shellcheck shell=bash disable=SC2153,SC2154 # HERE, NAME, stages and runs are training.sh's
# How training.sh starts what it starts: on which GPUs, several at once, and so that a signal ends all of it.
# It expects HERE, `stages` and, for `side_by_side`, `runs` ("SEED:INDEX" each) and a function finetune SLOT SCRIPT RUN...

stop() {
    echo "training.sh stopped: $*" >&2
    exit 1
}

is_whole() { # TEXT: what else bash takes for a number in (( )) may be a command
    [[ "$1" =~ ^(0|[1-9][0-9]{0,11})$ ]]
}

is_set() { # LOCATION: a folder, a file, or what may be an id of the hub
    [[ -e "$1" || ("$1" =~ ^[[:alnum:]_.-]+/[[:alnum:]_.-]+(:[[:alnum:]_.-]+)?$ && "${1##*.}" != csv && "${1##*.}" != parquet) ]]
}

has_failed() { # NAME
    stop "$1 failed: mend what it says, then run the same command again; what is done will be skipped"
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
{ is_whole "$JOBS" && [[ "$JOBS" != 0 ]]; } || stop "JOBS is $JOBS, expected a whole number from 1 on"
share=$((${#gpus[@]} / JOBS))
((${#gpus[@]} > 0 && share == 0)) && share=1 # more runs than GPUs: some share one

# The launcher takes as long to start as a script, and gives it one thread on a CPU. One process does without, unless
# accelerate_config.yaml holds more than these lines: then whoever changed it wants what only the launcher does.
lines_of_one_process='#.*|compute_environment: LOCAL_MACHINE|num_(machines|processes): 1|machine_rank: 0|debug: false'
lines_of_one_process+='|main_training_function: main|rdzv_backend: static|same_network: true|use_cpu: .*|downcast_bf16: .*'
lines_of_one_process+="|distributed_type: '?NO'?|mixed_precision: '?(no|fp16|bf16)'?"

setting() { # KEY: its value in accelerate_config.yaml
    sed -n "s/^$1: *'\{0,1\}\([^' ]*\).*/\1/p" "$HERE/accelerate_config.yaml"
}

# launch SLOT SCRIPT ARGUMENT... runs a script on the slot's GPUs
launch() {
    local slot="$1" script="$2" how=() config="$HERE/accelerate_config.yaml"
    shift 2
    if ((share > 0)); then
        local mine=("${gpus[@]:slot*share%${#gpus[@]}:share}")
        local -x CUDA_VISIBLE_DEVICES
        CUDA_VISIBLE_DEVICES="$(IFS=,; echo "${mine[*]}")"
        ((share > 1)) && how=(--multi_gpu --num_processes "$share" --main_process_port 0) # 0: any free one
    fi
    if ((share > 1)) || grep -qvxE "$lines_of_one_process" "$config"; then
        accelerate launch --quiet --config_file "$config" ${how[@]+"${how[@]}"} "$HERE/$script" "$@"
    else
        ACCELERATE_MIXED_PRECISION="$(setting mixed_precision)" ACCELERATE_USE_CPU="$(setting use_cpu)" \
            python "$HERE/$script" "$@"
    fi
}

# check_options ARGUMENT... ends here what finetune.py would refuse, before anything waits for torch; else it prints
# `age specialist` where the photographs have something for one to tell
check_options() {
    local code="import sys; sys.path[0] = sys.argv.pop(1); from utils.training import preflight; preflight.tell()"
    python -c "$code" "$HERE" "$@" </dev/null || exit 1
}

# check_test LOCATION OPTION... ends here what has nothing to predict, before hours are spent on models that are to predict it
check_test() {
    local code="import sys; sys.path[0] = sys.argv.pop(1); from utils.training import preflight; preflight.check_test(sys.argv[1:])"
    python -c "$code" "$HERE" "$@" </dev/null || exit 1
}

# told WHAT: the soup of the sweep, or the members of it that are to be trained on everyone
told() {
    local code="import sys; sys.path[0] = sys.argv.pop(1); from utils.evaluation.manifest import tell; tell(sys.argv[1:])"
    python -c "$code" "$HERE" "$NAME" "$1" </dev/null
}

# half_of_lr ARGUMENT...: half of the learning rate that finetune.py gets with them
half_of_lr() {
    local lr=1e-5
    while (($# > 0)); do
        case "$1" in
            --lr) lr="${2:-$lr}" ;;
            --lr=*) lr="${1#--lr=}" ;;
        esac
        shift
    done
    awk -v lr="$lr" 'BEGIN { printf "%g", lr / 2 }'
}

# Everything long runs in the background, as a process group of its own, so that a signal ends all of it.
set -m
pids=()
end_all() {
    local pid waited=0 # for a run that is being trained, which saves its state, but not for ever
    for pid in ${pids[@]+"${pids[@]}"}; do kill -TERM -- "-$pid" 2>/dev/null || true; done
    for pid in ${pids[@]+"${pids[@]}"}; do
        while ((waited++ < 300)) && kill -0 -- "-$pid" 2>/dev/null; do sleep 0.2; done
    done
}
trap 'end_all; stop "interrupted; run the same command again to go on"' INT TERM

begun=0
begin() { # NAME: a line with the place of a stage among those asked for
    echo "== stage $((++begun)) of ${#stages[@]}: $1, $((SECONDS / 60)) min after the start"
}

stage() { # NAME COMMAND...
    begin "$1"
    must "$@"
}

must() { # NAME COMMAND... stops there when it fails
    local name="$1"
    shift
    "$@" </dev/null &
    pids=("$!")
    wait "$!" || has_failed "$name"
    pids=()
}

# side_by_side WHAT fine-tunes all `runs`: each of JOBS workers is one process that does every JOBS-th of them, one after the
# other. When one fails the others save their state and end.
side_by_side() {
    local slot k mine logs=() cores told=$SECONDS
    begin "$1, ${#runs[@]} runs"
    if ((JOBS > 1)); then
        mkdir -p logs/training
        echo "$JOBS at once: what they tell is in logs/training/worker_*.out"
    fi
    if ((JOBS > 1 && share <= 1)); then
        cores="$(getconf _NPROCESSORS_ONLN)"
        export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cores > JOBS ? cores / JOBS : 1))}"
    fi
    for ((slot = 0; slot < JOBS && slot < ${#runs[@]}; slot++)); do
        mine=()
        for ((k = slot; k < ${#runs[@]}; k += JOBS)); do mine+=("${runs[k]}"); done
        logs+=("logs/training/worker_$slot.out")
        if ((JOBS == 1)); then
            finetune "$slot" finetune.py "${mine[@]}" </dev/null &
        else
            finetune "$slot" finetune.py "${mine[@]}" </dev/null >"${logs[slot]}" 2>&1 &
        fi
        pids+=("$!")
    done
    while ((${#pids[@]} > 0)); do
        sleep 0.2 & # in the background, for one in the foreground would take Ctrl-C to itself
        wait "$!"
        for slot in "${!pids[@]}"; do
            kill -0 "${pids[slot]}" 2>/dev/null && continue
            if ! wait "${pids[slot]}"; then
                end_all
                if ((JOBS > 1)); then tail -n 20 "${logs[slot]}" >&2; fi
                has_failed finetune.py
            fi
            unset "pids[slot]"
        done
        if ((JOBS > 1 && SECONDS - told >= 60)); then
            told=$SECONDS
            for slot in "${!pids[@]}"; do
                { grep -a ' left' "${logs[slot]}" || true; } | tail -n 1 | sed "s/^/worker $slot: /"
            done
        fi
    done
}

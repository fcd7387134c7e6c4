#!/usr/bin/env bash
# The whole workflow in one command: fine-tune a sweep, train the age specialist, make the soups, validate, predict,
# vote, and print what came of it.
#
#   bash training.sh                                          the embedded demo, when there is no folder data/
#   DATA_LOCATION=data PRETRAINED_LOCATION=pretrained bash training.sh
#   SEEDS="34 42" INDICES="0 1 2 3" EPOCHS=10 bash training.sh --lr 3e-5 --old-aug True
#
# Arguments go to finetune.py and finetune_age.py. The environment says the rest; paths are relative to where it runs:
#   NAME                 name of the sweep                                   finetune_cp
#   MODEL                ViT-B/32 (model_{i}.pt), ViT-B/16, hub id, file     ViT-B/32
#   SEEDS, INDICES       the grid, one ingredient for each pair              "42", "0 1 2 3 4"
#   EPOCHS               passes over the training photographs                20  (another MODEL: drawn about it)
#   DATA_LOCATION        folder of the training photographs                  data
#   TEST_LOCATION        folder of the photographs to predict                the data location
#   PRETRAINED_LOCATION  folder of model_{i}.pt                              the model location
#   MODEL_LOCATION       folder of the checkpoints                           model
#   RELABEL              CSV of corrections, for all scripts                 relabel.csv in the train folder, if any
#   METRIC               what the greedy soup must raise                     accuracy
#   TRUTH                CSV ImageID,ans,person to score the submissions     none
#   STAGES               which of: finetune age soup validation inference vote summary
#   JOBS                 fine-tuning runs at once                            one per GPU, else 1
#
# With fewer JOBS than GPUs each run is spread over several: JOBS=1 is data-parallel training on all of them. As a SLURM
# array (sbatch --array=0-7 training.sh) each task takes its share of the grid and does only the stages finetune and
# age; run the other STAGES once when all have ended. What is done is skipped, so a re-run goes on where one stopped.
set -euo pipefail

HERE="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" >/dev/null && pwd)"
[[ -n "${SLURM_SUBMIT_DIR:-}" && ! -f "$HERE/finetune.py" ]] && HERE="$SLURM_SUBMIT_DIR" # SLURM runs a copy

stop() {
    echo "training.sh stopped: $*" >&2
    exit 1
}

extra=("$@")
for word in "$@"; do
    flag="${word%%=*}"
    case "${flag//_/-}" in
        -h | --help)
            sed -n '2,/^set -euo/{/^#/s/^# \{0,1\}//p;}' "$HERE/training.sh"
            exit 0
            ;;
        --name | --model | --random-seed | --i | --epochs | --data-location | --model-location | --pretrained-location | --relabel)
            stop "$flag is set by the environment, for all scripts alike: see bash training.sh --help"
            ;;
    esac
done

demo=""
given="${DATA_LOCATION:-}${TEST_LOCATION:-}${PRETRAINED_LOCATION:-}${MODEL_LOCATION:-}${MODEL:-}${RELABEL:-}${TRUTH:-}"
if [[ -z "$given" && ! -d data ]]; then
    demo=yes
    echo "No data is given and there is no folder data/: this is the embedded demo on drawn faces, in $PWD/demo_run"
    mkdir -p demo_run
    cd demo_run >/dev/null
    : "${NAME:=demo}" "${INDICES:=0 1 2 3}" "${EPOCHS:=5}" "${METRIC:=macro_f1}"
    MODEL="$HERE/demo/tower.pt"
    TRUTH=data/eval_truth.csv
    extra=(--lr 2.5e-4 --batch-size 32 --report-to none ${extra[@]+"${extra[@]}"})
fi
NAME="${NAME:-finetune_cp}"
MODEL="${MODEL:-ViT-B/32}"
read -r -d '' -a seeds <<<"${SEEDS:-42}" || true
read -r -d '' -a indices <<<"${INDICES:-0 1 2 3 4}" || true
EPOCHS="${EPOCHS:-20}"
DATA_LOCATION="${DATA_LOCATION:-data}"
TEST_LOCATION="${TEST_LOCATION:-$DATA_LOCATION}"
MODEL_LOCATION="${MODEL_LOCATION:-model}"
PRETRAINED_LOCATION="${PRETRAINED_LOCATION:-$MODEL_LOCATION}"
METRIC="${METRIC:-accuracy}"
TRUTH="${TRUTH:-}"
relabel=(${RELABEL:+--relabel "$RELABEL"})
every="finetune age soup validation inference vote summary"
STAGES="${STAGES:-${SLURM_ARRAY_TASK_ID:+finetune age}}"
read -r -d '' -a stages <<<"${STAGES:-$every}" || true

wanted() { [[ " ${stages[*]} " == *" $1 "* ]]; }

for stage in ${stages[@]+"${stages[@]}"}; do
    [[ " $every " == *" $stage "* ]] || stop "STAGES has $stage, which is none of: $every"
done
[[ "$METRIC" == accuracy || "$METRIC" == macro_f1 ]] || stop "METRIC is $METRIC, expected accuracy or macro_f1"
[[ -n "${stages[*]-}" && -n "${seeds[*]-}" && -n "${indices[*]-}" ]] || stop "STAGES, SEEDS or INDICES is blank"
for number in "$EPOCHS" "${seeds[@]}" "${indices[@]}"; do
    [[ "$number" =~ ^(0|[1-9][0-9]*)$ ]] || stop "SEEDS, INDICES or EPOCHS has $number, expected whole numbers such as 3"
done
if wanted soup && [[ " $* " =~ \ --(fast[-_]dev[-_]run|val[-_]ratio[=\ ]0?[.]?0*)\  ]]; then
    stop "--${BASH_REMATCH[1]} leaves nothing to make a soup of: give it to finetune.py, or leave soup out of STAGES"
fi

# GPUs, and how many of them each run gets
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

# Everything long runs in the background, as a process group of its own, so that a signal ends all of it.
set -m
pids=()
interrupted() {
    local pid
    for pid in ${pids[@]+"${pids[@]}"}; do kill -TERM -- "-$pid" 2>/dev/null || true; done
    local waited=0 # for a run that is being trained, which saves its state, but not for ever
    for pid in ${pids[@]+"${pids[@]}"}; do
        while ((waited++ < 300)) && kill -0 -- "-$pid" 2>/dev/null; do sleep 0.2; done
    done
    stop "interrupted; run the same command again to go on"
}
trap interrupted INT TERM

# must NAME COMMAND... says which run failed and stops there
attempt() { # NAME COMMAND...
    local name="$1" began="$SECONDS"
    shift
    echo "== $name"
    "$@" </dev/null &
    pids=("$!")
    wait "$!" || return
    pids=()
    echo "-- $name: $((SECONDS - began)) s"
}

must() { # NAME COMMAND...
    attempt "$@" || stop "$1 failed: mend what it says, then run the same command again; what is done will be skipped"
}

finetune() { # SLOT SCRIPT SEED INDEX
    launch "$1" "$2" --resume --name "$NAME" --model "$MODEL" --random-seed "$3" --i "$4" --epochs "$EPOCHS" \
        --data-location "$DATA_LOCATION" --model-location "$MODEL_LOCATION" \
        --pretrained-location "$PRETRAINED_LOCATION" ${relabel[@]+"${relabel[@]}"} ${extra[@]+"${extra[@]}"}
}

newest() { # REGEX FILE...: of the files that exist and whose names end so
    local ending="$1" file best=""
    shift
    for file in "$@"; do
        if [[ -f "$file" && "$file" =~ $ending$ && (-z "$best" || "$file" -nt "$best") ]]; then best="$file"; fi
    done
    echo "$best"
}

# This task's share of the grid: all of it, or every COUNT-th run of a SLURM array
tasks="${SLURM_ARRAY_TASK_COUNT:-1}"
step="${SLURM_ARRAY_TASK_STEP:-1}"
me=$(((${SLURM_ARRAY_TASK_ID:-0} - ${SLURM_ARRAY_TASK_MIN:-0}) / step))
last=$(((${SLURM_ARRAY_TASK_MAX:-0} - ${SLURM_ARRAY_TASK_MIN:-0}) / step))
((last == tasks - 1)) || stop "a SLURM array must be a plain range, such as --array=0-7: its tasks share the grid"
runs=()
number=0
for seed in "${seeds[@]}"; do
    for i in "${indices[@]}"; do
        ((number++ % tasks == me)) && runs+=("$seed $i")
        if [[ "$MODEL" == ViT-B/32 ]] && wanted finetune && [[ ! -f "$PRETRAINED_LOCATION/model_$i.pt" ]]; then
            stop "index $i has no $PRETRAINED_LOCATION/model_$i.pt: choose other INDICES, name the folder with" \
                "PRETRAINED_LOCATION, or run 'python main.py --download-models --model-location $PRETRAINED_LOCATION'"
        fi
    done
done

if [[ -n "$demo" && ! -f data/eval_truth.csv ]]; then # the last file that is written
    must "drawing the demo's faces" python "$HERE/demo/faces.py" data
fi
[[ -d "$DATA_LOCATION" ]] || stop "there is no folder $DATA_LOCATION: name the photographs with DATA_LOCATION"
[[ -d "$TEST_LOCATION" ]] || stop "there is no folder $TEST_LOCATION: name the photographs to predict with TEST_LOCATION"
[[ -z "$TRUTH" || -f "$TRUTH" ]] || stop "there is no file $TRUTH: name the right answers with TRUTH, or leave it out"

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
        elif ! finetune "$1" finetune.py "$seed" "$i" >"logs/training/$run.log" 2>&1; then
            echo "$run" >>"$failed"
            tail -n 20 "logs/training/$run.log" >&2
        fi
    done
}

if wanted finetune; then
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
    [[ -s "$failed" ]] && stop "finetune.py failed for $(paste -sd ' ' "$failed"): mend what it says, then run the same command again"
fi

if wanted age && ((me == 0)); then
    must "finetune_age.py" finetune 0 finetune_age.py "${seeds[0]}" "${indices[0]}"
fi

here=(--data-location "$DATA_LOCATION" --model-location "$MODEL_LOCATION")
there=(--data-location "$TEST_LOCATION" --model-location "$MODEL_LOCATION")
if wanted soup; then
    must "main.py" launch 0 main.py --uniform-soup --greedy-soup --plot --metric "$METRIC" --name "$NAME" \
        --random-seed "${seeds[@]}" --indices "${indices[@]}" --epoch "$EPOCHS" "${here[@]}" \
        ${relabel[@]+"${relabel[@]}"}
fi

if wanted validation || wanted inference || wanted vote || wanted summary; then
    epochs="$EPOCHS"
    if [[ "$MODEL" != ViT-B/32 ]]; then epochs='[0-9-]+'; fi # with one start for all, indices draw their own
    scores="$(newest "_num[0-9]+_epoch$epochs\.jsonl" "logs/individual_results_$NAME"_seed*.jsonl)"
    age="$(newest "_epoch$epochs\.pt" "$MODEL_LOCATION/Age_${NAME}_seed${seeds[0]}_i${indices[0]}"_epoch*.pt)"
    [[ -n "$scores" ]] || stop "there are no scores of $NAME yet: run the stage soup first"
    [[ "$scores" =~ (_seed.*)_num([0-9]+)_epoch([0-9-]+).jsonl$ ]]
    soup_name="${NAME}${BASH_REMATCH[1]}_epoch${BASH_REMATCH[3]}_greedysoup_num${BASH_REMATCH[2]}"
    soup="$MODEL_LOCATION/$soup_name.pt"
    best_name="$(sed -n '1s/.*"model": "\([^"]*\)\.pt".*/\1/p' "$scores")" # the file lists the best one first
    best="$MODEL_LOCATION/$best_name.pt"
    chosen="logs/ensemble_${NAME}_auto.json"
    voting=("output/output_$soup_name.csv" "output/output_${soup_name}_WE_$(basename "$age" .pt).csv"
        "output/output_${soup_name}_SV_$best_name.csv")
    if wanted validation || wanted inference; then
        for file in "$soup" "$best"; do [[ -f "$file" ]] || stop "there is no $file: run the stage soup first"; done
        [[ -f "$age" ]] || stop "there is no age specialist ${age:-of seed ${seeds[0]}, index ${indices[0]}}: run the stage age first"
    fi
fi

if wanted validation; then
    must "validation.py" launch 0 validation.py --model-name "$soup" --weighted-ensemble "$age" \
        --soft-voting "$best" "${here[@]}" ${relabel[@]+"${relabel[@]}"}
    attempt "validation.py --ensemble auto" launch 0 validation.py --ensemble auto --name "$NAME" --metric "$METRIC" \
        "${here[@]}" ${relabel[@]+"${relabel[@]}"} || echo "no ensemble was chosen: going on without one" >&2
fi

if wanted inference; then
    must "inference.py, best single model" launch 0 inference.py --model-name "$best" "${there[@]}"
    must "inference.py, soup" launch 0 inference.py --model-name "$soup" "${there[@]}"
    must "inference.py, soup and age" launch 0 inference.py --model-name "$soup" --weighted-ensemble "$age" "${there[@]}"
    must "inference.py, soft vote" launch 0 inference.py --model-name "$soup" --soft-voting "$best" "${there[@]}"
    if [[ "$chosen" -nt "$scores" ]]; then # of these very models
        must "inference.py, chosen ensemble" launch 0 inference.py --ensemble "$chosen" "${there[@]}"
    fi
fi

if wanted vote; then
    must "hard_voting.py" python "$HERE/hard_voting.py" "${voting[@]}"
fi

if wanted summary; then
    scored=()
    if [[ "$chosen" -nt "$scores" ]]; then voting+=("output/output_${NAME}_auto.csv"); fi
    for file in "output/output_$best_name.csv" "${voting[@]}" output/hard_voting.csv; do
        if [[ -n "$TRUTH" && -f "$file" ]]; then scored+=("$file"); fi
    done
    ((${#scored[@]} > 0)) && scored+=(--truth "$TRUTH")
    python "$HERE/summary.py" --name "$NAME" ${scored[@]+"${scored[@]}"}
fi
if wanted vote; then
    echo
    echo "submission: $PWD/output/hard_voting.csv (done in $SECONDS s)"
fi

#!/usr/bin/env bash
# The whole workflow in one command: fine-tune a sweep, train the age specialist, make the soups, validate, predict,
# vote, and say which file to hand in.
#
#   bash training.sh                                          the embedded demo, when there is no folder data/
#   DATA_LOCATION=data PRETRAINED_LOCATION=pretrained bash training.sh
#   DATA_LOCATION=flowers MODEL=openai/clip-vit-base-patch16 bash training.sh        any set: a folder per class,
#   DATA_LOCATION=birds.csv MODEL=... bash training.sh --label-columns species,sex   or a table
#   SEEDS="34 42" INDICES="0 1 2 3" EPOCHS=10 bash training.sh --lr 3e-5 --old-aug True
#
# Arguments go to finetune.py and finetune_age.py. The environment says the rest; paths are relative to where it runs:
#   NAME                 name of the sweep                                   finetune_cp
#   MODEL                ViT-B/32 (model_{i}.pt), ViT-B/16, hub id, file     ViT-B/32
#   SEEDS, INDICES       the grid, one ingredient for each pair              "42", "0 1 2 3 4"
#   EPOCHS               passes over the training photographs                20  (another MODEL: drawn about it)
#   FOLDS                cross-validate: every model once for each fold      none, one split
#   ROUNDS               2: the soup is the start of a second sweep          1
#   DATA_LOCATION        folder or table of the training photographs         data
#   TEST_LOCATION        folder or table of those to predict                 the data location
#   PRETRAINED_LOCATION  folder of model_{i}.pt                              the model location
#   MODEL_LOCATION       folder of the checkpoints                           model
#   RELABEL              CSV of corrections, for all scripts                 relabel.csv in the train folder, if any
#   METRIC               what soups, weights and ensembles are chosen by     macro_f1, which the task is ranked by
#   TRUTH                CSV ImageID,ans,person to score the submissions     none
#   STAGES               which of: finetune age soup refit validation inference vote summary (refit: with FOLDS)
#   JOBS                 fine-tuning runs at once                            one per GPU, else 1
#
# With fewer JOBS than GPUs each run is spread over several: JOBS=1 is data-parallel training on all of them. As a SLURM
# array (sbatch --array=0-7 training.sh) each task takes its share of the grid and does only the stages finetune and
# age; run the other STAGES once when all have ended. What is done is skipped, so a re-run goes on where one stopped.
set -euo pipefail

HERE="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" >/dev/null && pwd)"
[[ -n "${SLURM_SUBMIT_DIR:-}" && ! -f "$HERE/finetune.py" ]] && HERE="$SLURM_SUBMIT_DIR" # SLURM runs a copy
# shellcheck source=utils/jobs.sh
source "$HERE/utils/jobs.sh"

extra=("$@")
for word in "$@"; do
    flag="${word%%=*}"
    case "${flag//_/-}" in
        -h | --help)
            sed -n '2,/^set -euo/{/^#/s/^# \{0,1\}//p;}' "$HERE/training.sh"
            exit 0
            ;;
        --name | --model | --random-seed | --i | --runs | --folds | --fold | --epochs | --data-location | --model-location | --pretrained-location | --relabel)
            stop "$flag is set by the environment, for all scripts alike: see bash training.sh --help"
            ;;
    esac
done

# What is asked for
for name in NAME MODEL DATA_LOCATION TEST_LOCATION PRETRAINED_LOCATION MODEL_LOCATION TRUTH; do
    [[ -n "${!name-given}" ]] || stop "$name is empty: give it a value, or leave it out"
done
demo=""
given="${DATA_LOCATION:-}${TEST_LOCATION:-}${PRETRAINED_LOCATION:-}${MODEL_LOCATION:-}${MODEL:-}${RELABEL:-}${TRUTH:-}"
if [[ -z "$given" && ! -d data ]]; then
    demo=yes
    echo "No data is given and there is no folder data/: this is the embedded demo on drawn faces, in $PWD/demo_run"
    mkdir -p demo_run
    cd demo_run >/dev/null
    : "${NAME:=demo}" "${INDICES:=0 1 2 3}" "${EPOCHS:=5}"
    MODEL="$HERE/demo/tower.pt"
    TRUTH=data/eval_truth.csv                  # the last file that is drawn
    if [[ ! -f "$TRUTH" ]]; then rm -rf data; fi # half drawn
    extra=(--lr 2.5e-4 --batch-size 32 --report-to none ${extra[@]+"${extra[@]}"})
    [[ -n "${FOLDS:-}" ]] || extra=(--val-ratio 0.5 "${extra[@]}") # folds hold out everybody
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
metric=(--metric "${METRIC:-macro_f1}")
relabel=(${RELABEL:+--relabel "$RELABEL"})
FOLDS="${FOLDS:-}"
ROUNDS="${ROUNDS:-1}"
folds=(${FOLDS:+--folds "$FOLDS"})
every="finetune age soup${FOLDS:+ refit} validation inference vote summary"
asked_stages="${STAGES:-}"
STAGES="${STAGES:-${SLURM_ARRAY_TASK_ID:+finetune age}}"
read -r -d '' -a stages <<<"${STAGES:-$every}" || true

wanted() { [[ " ${stages[*]} " == *" $1 "* ]]; }
leave_out() { # STAGE
    local left=() stage
    for stage in "${stages[@]}"; do [[ "$stage" == "$1" ]] || left+=("$stage"); done
    stages=("${left[@]}")
}

for stage in ${stages[@]+"${stages[@]}"}; do
    [[ " $every " == *" $stage "* ]] || stop "STAGES has $stage, which is none of: $every"
done
[[ -n "${stages[*]-}" && -n "${seeds[*]-}" && -n "${indices[*]-}" ]] || stop "STAGES, SEEDS or INDICES is blank"
for number in "EPOCHS $EPOCHS" "ROUNDS $ROUNDS" ${FOLDS:+"FOLDS $FOLDS"} "${seeds[@]/#/SEEDS }" "${indices[@]/#/INDICES }"; do
    is_whole "${number#* }" || stop "${number/ / has }, expected whole numbers such as 3"
done
if wanted soup && [[ " $* " =~ \ --(fast[-_]dev[-_]run|val[-_]ratio[=\ ]0?[.]?0*)\  ]]; then
    stop "--${BASH_REMATCH[1]} leaves nothing to make a soup of: give it to finetune.py, or leave soup out of STAGES"
fi

# This task's share of the grid: all of it, or every COUNT-th run of a SLURM array
tasks="${SLURM_ARRAY_TASK_COUNT:-1}"
step="${SLURM_ARRAY_TASK_STEP:-1}"
first="${SLURM_ARRAY_TASK_MIN:-0}"
for number in "$tasks" "$step" "$first" "${SLURM_ARRAY_TASK_ID:-0}" "${SLURM_ARRAY_TASK_MAX:-0}"; do
    is_whole "$number" || stop "SLURM_ARRAY_TASK_ID or another of its kind is $number, expected a whole number"
done
((tasks > 0 && step > 0)) || stop "SLURM_ARRAY_TASK_COUNT and SLURM_ARRAY_TASK_STEP must be above 0"
me=$(((${SLURM_ARRAY_TASK_ID:-0} - first) / step))
last=$(((${SLURM_ARRAY_TASK_MAX:-0} - first) / step))
((last == tasks - 1)) || stop "a SLURM array must be a plain range, such as --array=0-7: its tasks share the grid"
runs=()
number=0
of_folds=()
for ((fold = 0; fold < ${FOLDS:-0}; fold++)); do of_folds+=(":$fold"); done
((${#of_folds[@]} > 0)) || of_folds=("")
for seed in "${seeds[@]}"; do
    for i in "${indices[@]}"; do
        for fold in "${of_folds[@]}"; do
            ((number++ % tasks == me)) && runs+=("$seed:$i$fold")
        done
    done
done
[[ -n "$demo" ]] || is_set "$DATA_LOCATION" || stop "there is no folder $DATA_LOCATION: name the photographs with DATA_LOCATION"
[[ -n "$demo" ]] || is_set "$TEST_LOCATION" || stop "there is no folder $TEST_LOCATION: name the photographs to predict with TEST_LOCATION"
[[ -n "$demo" || -z "${TRUTH:-}" || -f "$TRUTH" ]] || stop "there is no file $TRUTH: name the right answers with TRUTH, or leave it out"

options_of() { # SEED:INDEX...
    options=(--resume --name "$NAME" --model "$MODEL" ${folds[@]+"${folds[@]}"})
    (($# > 0)) && options+=(--runs "$@")
    options+=(--epochs "$EPOCHS" --data-location "$DATA_LOCATION" --model-location "$MODEL_LOCATION")
    options+=(--pretrained-location "$PRETRAINED_LOCATION" "${metric[@]}")
    options+=(${relabel[@]+"${relabel[@]}"} ${extra[@]+"${extra[@]}"})
}
finetune() { # SLOT SCRIPT SEED:INDEX...
    if [[ -n "$demo" ]]; then # another number of threads rounds otherwise, and README.md tells the demo's scores
        local -x OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
    fi
    options_of "${@:3}"
    launch "$1" "$2" "${options[@]}"
}
if wanted finetune || wanted age; then
    options_of "${seeds[0]}:${indices[0]}${of_folds[0]}" # where something is trained, the name must be free
else
    options_of
    [[ -z "$FOLDS" ]] || options+=(--fold all) # any one of them will do
fi
specialist="$(check_options "${options[@]}")" || exit 1
if [[ -z "$asked_stages" && -z "$specialist" ]]; then # nothing for one to tell
    leave_out age
fi
if wanted inference && [[ -z "$demo" ]]; then
    check_test "$TEST_LOCATION" "${options[@]}"
fi

for i in "${indices[@]}"; do
    if [[ "$MODEL" == ViT-B/32 ]] && wanted finetune && [[ ! -f "$PRETRAINED_LOCATION/model_$i.pt" ]]; then
        stop "index $i has no $PRETRAINED_LOCATION/model_$i.pt: choose other INDICES, name the folder with" \
            "PRETRAINED_LOCATION, or run 'python main.py --download-models --model-location $PRETRAINED_LOCATION'"
    fi
done

if [[ -n "$demo" && ! -f "$TRUTH" ]]; then
    echo "== drawing the demo's faces"
    must "drawing the demo's faces" python "$HERE/demo/faces.py" data
fi

if wanted finetune; then
    side_by_side finetune.py # all `runs`, JOBS at once
fi
if wanted age && ((me == 0)); then
    stage finetune_age.py finetune 0 finetune_age.py "${of_folds[@]/#/${seeds[0]}:${indices[0]}}"
fi

people=(--data-location "$DATA_LOCATION" --model-location "$MODEL_LOCATION" ${relabel[@]+"${relabel[@]}"})
soups=(main.py --uniform-soup --greedy-soup --plot "${metric[@]}" --name "$NAME")
soups+=(--random-seed "${seeds[@]}" --indices "${indices[@]}" --epoch "$EPOCHS" "${people[@]}")
[[ -z "$FOLDS" ]] || soups+=(--nested)
if ((ROUNDS > 1)) && [[ -n "$FOLDS" ]]; then soups+=(--save-folds); fi
if wanted soup; then
    stage main.py launch 0 "${soups[@]}"
fi
if wanted refit && [[ -n "$FOLDS" ]]; then
    members="$(told members)"
    read -r -d '' -a runs <<<"$members" || true
    side_by_side "refit on everyone"
    must main.py launch 0 "${soups[@]}"
fi
if wanted validation; then
    stage validation.py launch 0 validation.py --sweep "$NAME" "${metric[@]}" "${people[@]}"
fi
if wanted inference; then
    stage inference.py launch 0 inference.py --sweep "$NAME" --data-location "$TEST_LOCATION" --model-location "$MODEL_LOCATION"
fi
if wanted vote; then
    stage hard_voting.py python "$HERE/hard_voting.py" --sweep "$NAME"
fi
if wanted summary; then
    begin summary.py
    python "$HERE/summary.py" --name "$NAME" ${TRUTH:+--truth "$TRUTH"}
fi

if ((ROUNDS > 1)) && wanted soup; then # the soup is the start of another sweep: a quarter of the epochs, half the learning rate
    MODEL="$MODEL_LOCATION/$(told soup)"
    NAME="${NAME}_round2"
    EPOCHS="$(((EPOCHS + 3) / 4))"
    ROUNDS="$((ROUNDS - 1))"
    STAGES="${stages[*]}"
    SEEDS="${seeds[*]}"
    INDICES="${indices[*]}"
    echo "== second round: $NAME from $MODEL, $EPOCHS epochs"
    export NAME MODEL SEEDS INDICES EPOCHS FOLDS ROUNDS DATA_LOCATION TEST_LOCATION PRETRAINED_LOCATION MODEL_LOCATION
    export STAGES JOBS TRUTH
    exec bash "$HERE/training.sh" ${extra[@]+"${extra[@]}"} --lr "$(half_of_lr ${extra[@]+"${extra[@]}"})"
fi

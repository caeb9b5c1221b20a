#!/usr/bin/env bash
# Functions for a grid of training runs (methods x seeds x tasks); to be sourced by a script, which then reads:
#
#   source "$root/scripts/lib/grid.sh"
#   grid_begin "$out" "$@"                  # takes the arguments that all grids know
#   for seed in 1 2 3; do
#       run_cell mr/standard "$seed" --train_tasks mr --perturb standard --num_train_epochs "$(small 1 3)"
#   done
#   grid_wait                               # until every cell has ended
#   grid_report "$GRID_OUT/mr" --best_by mr/acc
#   grid_end                                # names the cells that failed; its status is the script's
#
# A cell is a run folder $GRID_OUT/NAME-SEED, with its output in NAME-SEED.log and its flags in NAME-SEED.flags. A cell
# that has finished is passed over, one that was stopped goes on, one that fails does not stop the others. The flags of
# an earlier start must have been the same: a cell made with others fails instead of being taken for this one.
#
# The sourcing script sets `mtrobust` (the command). Arguments that grid_begin takes out of those of the script:
#   --small          a run on two cores: small is true, and everything goes to OUT/small
#   --jobs N         cells at a time, each with one thread (default: the variable JOBS, or 1)
# All others, such as --max_steps 5 or --bf16, are given to every `mtrobust train`.

grid_begin() { # OUT, arguments of the script
    GRID_OUT=$1 GRID_SMALL='' GRID_JOBS=${JOBS:-1} GRID_FLAGS=()
    shift
    while [ $# -gt 0 ]; do
        case "$1" in
            --small) GRID_SMALL=yes ;;
            --jobs) GRID_JOBS=${2:-}; shift ;;
            *) GRID_FLAGS+=("$1") ;;
        esac
        shift || true
    done
    case "$GRID_JOBS" in
        '' | *[!0-9]* | 0) echo "--jobs: '$GRID_JOBS': must be a whole number of at least 1" >&2; exit 2 ;;
    esac
    [ "$GRID_JOBS" = 1 ] || export OMP_NUM_THREADS=1
    [ -z "$GRID_SMALL" ] || GRID_OUT=$GRID_OUT/small
    mkdir -p "$GRID_OUT"
    GRID_CELLS='' GRID_RUNS=() GRID_NAME='' GRID_COLUMNS=''
    GRID_FAILED=$(mktemp "${TMPDIR:-/tmp}/grid.XXXXXX")
    trap 'rm -f "$GRID_FAILED"' EXIT
    trap '_grid_stop' INT TERM
}

small() { # value with --small, value without; several words each where quoted
    if [ -n "$GRID_SMALL" ]; then echo "$1"; else echo "$2"; fi
}

run_cell() { # NAME SEED, flags of mtrobust train
    local name=$1 seed=$2
    shift 2
    GRID_CELLS+="- \"$name-$seed\""$'\n'
    GRID_RUNS+=("$GRID_OUT/$name-$seed")
    _grid_start _grid_cell "$name" "$seed" "$@" ${GRID_FLAGS[@]+"${GRID_FLAGS[@]}"}
}

run_step() { # FILE that the step makes, NAME SEED of a finished cell, command: for evaluations and attacks after grid_wait
    _grid_start _grid_step "$@"
}

grid_wait() {
    wait
}

grid_report() { # run folders and flags of mtrobust report; the files go to report/ beside the runs (or to
    # report/$GRID_NAME, where several reports are made of them), gaps are named in them, also of the columns in
    # GRID_COLUMNS ('"a","b"')
    local expected=$GRID_OUT/expected${GRID_NAME:+-$GRID_NAME}.yml
    printf 'runs:\n%s%s' "$GRID_CELLS" "${GRID_COLUMNS:+columns: [$GRID_COLUMNS]}" >"$expected"
    "$mtrobust" report --out "$GRID_OUT/report${GRID_NAME:+/$GRID_NAME}" --expect "$expected" "$@"
}

grid_end() {
    wait
    [ -s "$GRID_FAILED" ] || return 0
    echo "$(wc -l <"$GRID_FAILED" | tr -d ' ') failed:" >&2
    sort "$GRID_FAILED" >&2
    return 1
}

# --- inside --------------------------------------------------------------------------------------------------------

_grid_start() { # function with arguments: in the background, and waits until fewer than GRID_JOBS run
    "$@" &
    while [ "$(jobs -rp | wc -l)" -ge "$GRID_JOBS" ]; do sleep 0.1; done
}

_grid_stop() { # everything that runs is asked to end, which writes a checkpoint
    local pids
    pids=$(jobs -rp)
    # shellcheck disable=SC2086
    [ -z "$pids" ] || kill -TERM $pids 2>/dev/null || true
    wait
    echo "stopped; the same command goes on" >&2
    exit 130
}

_grid_cell() { # in a subshell of its own
    local name=$1 seed=$2 run=$GRID_OUT/$1-$2 options=() start=$SECONDS
    shift 2
    mkdir -p "$(dirname "$run")"
    if [ -e "$run.flags" ] && [ "$(cat "$run.flags")" != "$*" ]; then
        _grid_failed "$name, seed $seed: was made with other flags (see $run.flags); choose another OUT or delete it"
        return
    fi
    [ ! -e "$run/all_results.json" ] || return 0
    printf '%s\n' "$*" >"$run.flags"
    [ ! -e "$run/config.yml" ] || options=(--resume)
    if _grid_run "$run.log" "$mtrobust" train --output_dir "$run" --seed "$seed" --progress lines "$@" \
        ${options[@]+"${options[@]}"}; then
        echo "$name, seed $seed: done ($((SECONDS - start)) s)"
    else
        _grid_failed "$name, seed $seed: see $run.log"
    fi
}

_grid_step() { # in a subshell of its own
    local file=$1 name=$2 seed=$3 run=$GRID_OUT/$2-$3
    shift 3
    [ ! -e "$file" ] && [ -e "$run/all_results.json" ] || return 0
    if _grid_run "$run.${file##*/}.log" "$@"; then
        echo "$name, seed $seed: ${file##*/}"
    else
        _grid_failed "$name, seed $seed: ${file##*/}: see $run.${file##*/}.log"
    fi
}

_grid_run() { # log, command; its status. A request to end is handed on to it and ends the subshell
    local log=$1 child code=0
    shift
    "$@" >"$log" 2>&1 &
    child=$!
    trap 'kill -TERM "$child" 2>/dev/null; wait "$child"; exit 143' TERM
    wait "$child" || code=$?
    trap - TERM
    return "$code"
}

_grid_failed() { # one line, short enough to be written whole when several cells end at once
    printf '%s\n' "$1" >>"$GRID_FAILED"
    echo "failed: $1" >&2
}

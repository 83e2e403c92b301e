#!/usr/bin/env bash
# TOFU, unattended: target and reference of a base model, then every installed method on every problem, forget10 first.
# What fails is named in the log and the rest goes on; given again, finished parts and runs are kept.
#
#   benchmarks/tofu.sh OUT [MODEL] [options of `unbench prepare`]
#
# OUT gets the run folders, the page and tofu.log; MODEL is smollm2 where none is named. UNBENCH_DATA names the folder
# with TOFU's files (without it: the hub), UNBENCH_SMOLLM2 the folder with SmolLM2's GGUF where the machine has no
# network, UNBENCH_DEVICE the device (cuda); PROBLEMS and METHODS take the place of all.
set -u
out=${1:?the folder for the results}
model=${2:-smollm2}
shift $(($# < 2 ? $# : 2))
export UNBENCH_DEVICE=${UNBENCH_DEVICE:-cuda}
mkdir -p "$out"
log="$out/tofu.log"
say() { echo "$(date -u +%H:%M:%S) $*" | tee -a "$log"; }

unbench env --json >>"$log"
every='import json, sys; print(*(m["name"] for m in json.load(sys.stdin)["methods"]))'
methods=${METHODS:-$(unbench methods --json | python3 -c "$every")}
failed=0
for problem in ${PROBLEMS:-forget10 fact forget05 forget01}; do
    say "prepare $problem"
    if ! unbench prepare "tofu/$problem" --model "$model" "$@" >>"$log" 2>&1; then
        say "FAILED: prepare $problem"
        failed=1
        continue
    fi
    for method in $methods; do
        say "$method on $problem"
        unbench run --method "$method" --task "tofu/$problem" --model "$model" --out "$out" --resume >>"$log" 2>&1 ||
            { say "FAILED: $method on $problem"; failed=1; }
    done
done
unbench leaderboard build "$out" --out "$out/site" >>"$log" 2>&1 || failed=1
say "done"
exit $failed

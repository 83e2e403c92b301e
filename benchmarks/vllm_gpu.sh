#!/usr/bin/env bash
# vLLM on a GPU, unattended: parity on the device, tokens a second of both engines, and the whole of UnSTAR on facts/all
# timed by phase with each. What fails is named in the log and the rest goes on; given again, finished runs are kept.
# It wants an environment with `pip install 'unbench[vllm]'` in its PATH. It has not been run: no GPU was at hand.
#
#   benchmarks/vllm_gpu.sh OUT
#
# OUT gets the runs, the tables and vllm_gpu.log. UNBENCH_DEVICE names the device (cuda), UNBENCH_SMOLLM2 the folder with
# SmolLM2's GGUF where the machine has no network, TASK and MODEL take the place of facts/all and smollm2.
set -u
out=${1:?the folder for the results}
here=$(cd "$(dirname "$0")" && pwd)
model=${MODEL:-smollm2}
task=${TASK:-facts/all}
export UNBENCH_DEVICE=${UNBENCH_DEVICE:-cuda}
mkdir -p "$out"
log="$out/vllm_gpu.log"
failed=0
say() { echo "$(date -u +%H:%M:%S) $*" | tee -a "$log"; }
step() {
    name=$1
    shift
    say "$name"
    "$@" >>"$log" 2>&1 || { say "FAILED: $name"; failed=1; }
}

unbench env --json >>"$log"
say "tokens a second of both engines"
python "$here/generation.py" --model "$model" --task "$task" --requests 2000 --device "$UNBENCH_DEVICE" \
    >"$out/generation.md" 2>>"$log" || { say "FAILED: generation.py"; failed=1; }
# In float32 the engines' scores must agree; in bfloat16 they show what rounding does.
for dtype in float32 bfloat16; do
    for engine in hf vllm; do
        say "eval with $engine in $dtype"
        unbench -q eval "$model" --task "$task" --engine "$engine" --dtype "$dtype" --json \
            >"$out/eval-$engine-$dtype.json" 2>>"$log" || { say "FAILED: eval $engine $dtype"; failed=1; }
    done
done
for engine in hf vllm auto; do
    step "UnSTAR with $engine" \
        unbench -q run --method unstar --model "$model" --task "$task" --engine "$engine" --out "$out/runs-$engine" --resume
done
python - "$out" <<'PY' | tee "$out/phases.md"
import json, sys
from pathlib import Path

print("| engine | device | in all, s | generation | scoring | training | tokens/s | vLLM starts | forget | retain |")
print("|---|---|---|---|---|---|---|---|---|---|")
for engine in ("hf", "vllm", "auto"):
    for file in sorted(Path(sys.argv[1], f"runs-{engine}").rglob("result.json")):
        result = json.loads(file.read_text())
        cost, scores = result["compute"], result["scores"]
        shares = [f"{100 * (cost[name + '_share'] or 0):.0f} %" for name in ("generation", "scoring", "training")]
        kept = [f"{scores[name]['value']:.2f}" for name in ("forget", "retain") if scores[name]["value"] is not None]
        cells = [engine, result["device"], f"{cost['wall_s']:.0f}", *shares, f"{cost['tokens_per_s'] or 0:.0f}",
                 str(cost["engine_starts"]), *kept]
        print("| " + " | ".join(cells) + " |")
PY
say "done"
exit $failed

#!/usr/bin/env bash
# vLLM on a GPU, unattended: tokens a second of both engines, their scores side by side, and the whole of UnSTAR on
# facts/all timed by phase with each. What fails is named in the log and the rest goes on; given again, finished runs are
# kept. It wants an environment with `pip install 'unbench[vllm]'` in its PATH. It has not been run on a GPU: none was at
# hand; on a CPU it has, with a small model and few requests.
#
#   benchmarks/vllm_gpu.sh OUT
#
# OUT gets the runs, vllm_gpu.log and three tables with the device in their names, to be committed: generation-*.md,
# scores-*.md and phases-*.md. It ends with 1 where a step failed, vLLM writes fewer than 10 times as fast as hf, or
# scores in float32 lie further apart than 0.005. UNBENCH_DEVICE names the device (cuda), UNBENCH_SMOLLM2 the folder with
# SmolLM2's GGUF where the machine has no network. To try it small: TASK and MODEL take the place of facts/all and
# smollm2, REQUESTS of 2000, TIMES of 10, and MORE is further options of every evaluation and run (--limit 2).
set -u
out=${1:?the folder for the results}
here=$(cd "$(dirname "$0")" && pwd)
model=${MODEL:-smollm2}
task=${TASK:-facts/all}
read -ra more <<<"${MORE:-}"
export UNBENCH_DEVICE=${UNBENCH_DEVICE:-cuda}
mkdir -p "$out"
log="$out/vllm_gpu.log"
failed=0
say() { echo "$(date -u +%H:%M:%S) $*" | tee -a "$log"; }
fails() {
    say "FAILED: $*"
    failed=1
}

unbench env --json >>"$log" || fails "unbench env"
device=$(python - <<'PY'
import os, re

from unbench.models.load import device_words

print(re.sub("[^a-z0-9]+", "-", device_words(os.environ["UNBENCH_DEVICE"]).lower()).strip("-"))
PY
) || { fails "no device $UNBENCH_DEVICE"; exit 1; }

say "tokens a second of both engines on $device"
python "$here/generation.py" --model "$model" --task "$task" --requests "${REQUESTS:-2000}" \
    --device "$UNBENCH_DEVICE" --at-least "${TIMES:-10}" >"$out/generation-$device.md" 2>>"$log" || fails "generation.py"
tail -n 12 "$out/generation-$device.md"

for engine in hf vllm auto; do
    say "UnSTAR with $engine"
    unbench -q run --method unstar --model "$model" --task "$task" --engine "$engine" "${more[@]}" \
        --out "$out/runs-$engine" --resume >>"$log" 2>&1 || fails "UnSTAR with $engine"
done
# The runs before train adapters where the model is smollm2; here whole weights go into the running engine.
say "UnSTAR with vllm, all weights"
unbench -q run --method unstar --model "$model" --task "$task" --engine vllm --train full "${more[@]}" \
    --out "$out/runs-vllm-full" --resume >>"$log" 2>&1 || fails "UnSTAR with vllm, all weights"

# What hf's run unlearned, scored by each. In float32 the scores must agree; in bfloat16 they show what rounding does.
unlearned=$(find "$out/runs-hf" -type d -path '*/seed-0/unlearned' | head -n 1)
for dtype in float32 bfloat16; do
    for engine in hf vllm; do
        say "eval with $engine in $dtype"
        unbench -q eval "$unlearned" --target "$model" --task "$task" --engine "$engine" --dtype "$dtype" "${more[@]}" \
            --json >"$out/eval-$engine-$dtype.json" 2>>"$log" || fails "eval $engine $dtype"
    done
done

python - "$out" "$device" <<'PY' || fails "scores in float32 lie apart, or a table could not be made"
import json, sys
from pathlib import Path

out, device = Path(sys.argv[1]), sys.argv[2]
CLOSE = 0.005


def cell(value, form="{:.2f}"):
    return "–" if value is None else form.format(value)


def write(name, head, rows):
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    (out / f"{name}-{device}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(*lines, sep="\n", flush=True)


apart = {}
rows = []
for dtype in ("float32", "bfloat16"):
    files = [out / f"eval-{engine}-{dtype}.json" for engine in ("hf", "vllm")]
    both = [json.loads(file.read_text()) for file in files if file.is_file() and file.stat().st_size]
    if len(both) < 2:
        continue
    values = [{name: one["value"] for name, one in result["scores"].items()} for result in both]
    pairs = zip(*(one.values() for one in values))
    apart[dtype] = max((abs(a - b) for a, b in pairs if None not in (a, b)), default=float("nan"))
    for engine, result, scores in zip(("hf", "vllm"), both, values):
        cost = result["compute"]
        seconds = [cell(cost["wall_s"] * (cost[f"{what}_share"] or 0), "{:.0f}") for what in ("generation", "scoring")]
        rows.append([dtype, engine, result["device"], *seconds, *map(cell, scores.values()), f"{apart[dtype]:.4f}"])
write("scores", ["dtype", "engine", "device", "generation, s", "scoring, s", "forget", "trace", "retain", "specificity",
                 "overall", "furthest apart"], rows)
rows = []
for engine in ("hf", "vllm", "auto", "vllm-full"):
    for file in sorted((out / f"runs-{engine}").rglob("result.json")):
        result = json.loads(file.read_text())
        cost, scores = result["compute"], result["scores"]
        shares = [cell(cost[f"{name}_share"], "{:.0%}") for name in ("generation", "scoring", "training")]
        rows.append([engine, result["device"], cell(cost["wall_s"], "{:.0f}"), *shares,
                     cell(cost["tokens_per_s"], "{:.0f}"), str(cost["engine_starts"]),
                     *(cell(scores[name]["value"]) for name in ("forget", "retain", "specificity"))])
write("phases", ["engine", "device", "in all, s", "generation", "scoring", "training", "tokens/s", "vLLM starts",
                 "forget", "retain", "specificity"], rows)
sys.exit(not apart.get("float32", CLOSE) < CLOSE)
PY
say "done"
exit $failed

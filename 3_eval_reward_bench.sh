#!/usr/bin/env bash
# A judge and a benchmark -> verdicts, scores and a report, under runs/<recipe>/.
# usage: ./3_eval_reward_bench.sh [RECIPE.yaml] [key=value ...]    without a recipe: $RECIPE, else configs/qwen2.5-7b.yaml
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

for bin in "${VIRTUAL_ENV:-$PWD/.venv}/bin" "$PWD/.venv/bin"; do # an active environment, else the one here
  if [[ -x $bin/reasongenrm ]]; then
    export PATH="$bin:$PATH"
    break
  fi
done
command -v reasongenrm >/dev/null || { echo "3_eval_reward_bench.sh: reasongenrm not found: run 'make setup' first" >&2; exit 2; }
exec reasongenrm evaluate "$@"

#!/usr/bin/env bash
# Training files -> a trained judge, under runs/<recipe>/.
# usage: ./2_train.sh [RECIPE.yaml] [key=value ...]    without a recipe: $RECIPE, else configs/qwen2.5-7b.yaml
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

for bin in "${VIRTUAL_ENV:-$PWD/.venv}/bin" "$PWD/.venv/bin"; do # an active environment, else the one here
  if [[ -x $bin/reasongenrm ]]; then
    export PATH="$bin:$PATH"
    break
  fi
done
command -v reasongenrm >/dev/null || { echo "2_train.sh: reasongenrm not found: run 'make setup' first" >&2; exit 2; }
exec reasongenrm train "$@"

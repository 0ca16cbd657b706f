#!/usr/bin/env bash
# Distil a judge of a language tutor's replies into a small head: validate -> judge -> train -> evaluate, under runs/<recipe>/.
# usage: examples/tutor/run.sh [RECIPE.yaml] [key=value ...] [--dry-run] [--redo STEP]
#        without a recipe: configs/distil/reward_model.yaml; keys are read from .env, if it is there (see .env.example)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

for bin in "${VIRTUAL_ENV:-$PWD/.venv}/bin" "$PWD/.venv/bin"; do # an active environment, else the one here
  if [[ -x $bin/reasongenrm ]]; then
    export PATH="$bin:$PATH"
    break
  fi
done
command -v reasongenrm >/dev/null || { echo "run.sh: reasongenrm not found: run 'make setup' first" >&2; exit 2; }

if [[ -f .env ]]; then # lines NAME=value; what the environment has already stays, and an empty value sets nothing
  while IFS='=' read -r name value || [[ -n $name ]]; do
    if [[ $name =~ ^[A-Z][A-Z0-9_]*$ && -n $value && -z ${!name:-} ]]; then
      export "$name=$value"
    fi
  done <.env
fi
recipe=configs/distil/reward_model.yaml
if [[ ${1:-} == *.yaml ]]; then
  recipe=$1
  shift
fi
exec reasongenrm distil run "$recipe" "$@"

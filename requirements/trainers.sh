#!/usr/bin/env bash
# Make .venv-trainers/NAME for each trainer (all, or those named): its package beside what .venv has, for the tests of tests/trainers.
# Their requirements choose other versions than .venv's, and than each other's: one environment each, and .venv stays as it is.
# TRL is in .venv. There is no GPU here: what cannot be installed without one is left out, and named.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

environment() { # NAME: an environment that sees .venv's packages behind its own
  [[ -x .venv-trainers/$1/bin/python ]] || .venv/bin/python -m venv ".venv-trainers/$1"
  local site
  site=$(echo ".venv-trainers/$1"/lib/python3.*/site-packages)
  echo "$PWD/$(echo .venv/lib/python3.*/site-packages)" >"$site/main.pth"
}

add() { # NAME, then words of pip install
  local name=$1
  shift
  ".venv-trainers/$name/bin/python" -m pip --disable-pip-version-check install -q "$@"
}

verl() { # all that it requires; its extras (vllm, sglang, megatron, flash-attn) want a GPU
  add verl verl==0.9.1
}

openrlhf() { # its requirement flash-attn is built with a GPU only: without its requirements, and with what its client needs
  add openrlhf --no-deps openrlhf==0.11.2
  add openrlhf aiohttp pylatexenc
}

verifiers() {
  add verifiers verifiers==0.4.0
}

swift() {
  add swift ms-swift==4.6.0
}

nemo_gym() { # wants Python 3.12; without its trackers and data sets, which an agent does not import
  local python=${PYTHON312:-python3.12}
  if ! PYENV_VERSION=3.12 "$python" -c "import ensurepip" 2>/dev/null; then # a shim of pyenv runs the version that it is told
    echo "trainers: nemo_gym is left out, its tests are skipped: '$python' does not run or has no ensurepip; PYTHON312 names another"
    return
  fi
  [[ -x .venv-trainers/nemo_gym/bin/python ]] || PYENV_VERSION=3.12 "$python" -m venv .venv-trainers/nemo_gym
  add nemo_gym --no-deps nemo-gym==0.4.0
  add nemo_gym GitPython 'anthropic<=0.109.2' aiohttp devtools fastapi gprof2dot hydra-core itsdangerous 'mcp<2' omegaconf \
    'openai<=2.7.2' orjson pandas psutil pydantic pydot python-multipart 'ray>=2.55.1' requests rich uvicorn uvloop wandb yappi
}

echo "trainers: pip will report conflicts: with packages of .venv, which stay as they are, and requirements left out on purpose"
TRAINERS=(verl openrlhf verifiers swift nemo_gym)
for name in "${@:-${TRAINERS[@]}}"; do
  echo "trainers: $name"
  [[ $name == nemo_gym ]] || environment "$name"
  "$name"
done

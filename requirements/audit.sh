#!/usr/bin/env bash
# Look up pinned packages in PyPI's database of known vulnerabilities: requirements/audit.sh cpu|gpu-py311|gpu-py312
# pip-audit gets an environment of its own, since it would otherwise be part of the pins that it examines.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
name=${1:-}
pins=requirements/$name.txt
[[ -f $pins ]] || { echo "audit: no pin file for '$name'; there are: $(cd requirements && echo *.txt)" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -qq --disable-pip-version-check pip-audit
sed -E 's/^([^ ]+==[^ +]+)\+[^ ]+/\1/; s/ --hash=[^ ]*//g' "$pins" >"$work/pins.txt" # +cpu is not a version of PyPI
"$work/venv/bin/pip-audit" --progress-spinner off --disable-pip --no-deps -r "$work/pins.txt" \
  --format json --output "$work/result.json" 2>"$work/errors.txt" || true # 1 also means that it found something
[[ -s $work/result.json ]] || { cat "$work/errors.txt" >&2; echo "audit: pip-audit failed: nothing was examined" >&2; exit 3; }
"$work/venv/bin/python" - "$pins" "$work/result.json" <<'PY'
import json, sys

pins, path = sys.argv[1:]
packages = json.load(open(path))["dependencies"]
skipped = [package["name"] for package in packages if "skip_reason" in package]
found = [(package, entry) for package in packages for entry in package.get("vulns", ())]
for package, entry in found:
    fixed = ", ".join(entry["fix_versions"]) or "no version"
    print(f"{package['name']} {package['version']}: {entry['id']} (fixed in {fixed})")
if len(skipped) == len(packages):
    print("audit: no index with known vulnerabilities answers here: nothing was examined", file=sys.stderr)
    sys.exit(3)
names = f"; not examined: {', '.join(skipped)}" if skipped else ""
print(f"audit: {pins}: {len(found)} known vulnerabilities in {len(packages) - len(skipped)} packages{names}")
sys.exit(1 if found else 0)
PY

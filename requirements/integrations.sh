#!/usr/bin/env bash
# Make .venv-integrations: evaluation tools beside what .venv has, so that only what they lack is downloaded.
# Their own requirements may choose other versions than .venv's; those are installed here, and .venv stays as it is.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ -x .venv-integrations/bin/python ]] || .venv/bin/python -m venv .venv-integrations
site=$(echo .venv-integrations/lib/python3.*/site-packages)
echo "$PWD/$(echo .venv/lib/python3.*/site-packages)" >"$site/main.pth"
echo "integrations: inspect_ai, lm_eval and lighteval (some minutes the first time)"
.venv-integrations/bin/python -m pip --disable-pip-version-check install -q inspect_ai lm_eval lighteval

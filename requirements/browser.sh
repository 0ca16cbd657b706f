#!/usr/bin/env bash
# The report's page is tested in Debian's Chromium: install it where apt-get can, else say so (those tests are then skipped).
set -euo pipefail
if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then exit 0; fi
if command -v apt-get >/dev/null && [[ $(id -u) == 0 ]]; then
  echo "setup: Chromium, for the tests of the report"
  { apt-get install -y -qq --no-install-recommends chromium chromium-driver ||
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver; }; } \
    >/dev/null 2>&1 && exit 0
fi
echo "setup: no Chromium here: install chromium and chromium-driver to test the report's page; going on without" >&2

#!/usr/bin/env bash
# Builds the documentation site; a broken link or an unlisted page fails. Nothing but the packages is fetched.
#
#   scripts/docs.sh            writes OUT/index.html and all that belongs to it
#   scripts/docs.sh serve      shows the site on http://localhost:8000 while one writes
#
# Variables: OUT   folder of the site (default build/docs in the checkout; emptied first)
#            MTROBUST_VENV, PYTHON, CONSTRAINTS: as in scripts/install.sh
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${OUT:-$root/build/docs}
case "${1:-build}" in
    build) command=(build --strict --quiet --site-dir "$out") ;;
    serve) command=(serve --strict) ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) echo "docs.sh: unknown '$1' (allowed: build, serve; see --help)" >&2; exit 2 ;;
esac
if [ "${1:-build}" = build ] && [ -d "$out" ] && [ ! -e "$out/sitemap.xml" ] && [ -n "$(ls -A "$out")" ]; then
    echo "docs.sh: $out is not empty and not an earlier site; set OUT to another folder" >&2
    exit 2
fi
python=$("$root/scripts/install.sh" docs | tail -n 1)
export NO_MKDOCS_2_WARNING=1 # an advertisement of other tools
"$python" -m mkdocs "${command[@]}" --config-file "$root/docs/site/mkdocs.yml"
[ "${1:-build}" = serve ] || echo "$out/index.html"

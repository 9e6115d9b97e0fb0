#!/usr/bin/env bash
# libmagic 5.45 (as in wasmagic 1.0.5, npm) calls an HTML page `application/javascript` if it has no doctype and one of its inline scripts
# has `"use strict"` or starts a line with `(function`; with a doctype the same page is `text/html`. The libmagic of wasmagic 1.0.10
# says `text/html` for both. Debian 12's libmagic 5.44 does as 5.45 does, so datatrove 0.10.1's WarcReader, which asks libmagic where a
# record has no WARC-Identified-Payload-Type (wget writes none), passed over 52 of 90 saved news pages there without a word.
# Seen: 1.0.5 js, js, html, html; 1.0.10 html, html, html, html.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/look.mjs" <<'JAVASCRIPT'
import { WASMagic } from "wasmagic";

const magic = await WASMagic.create();
const scripts = ['\n(function () { var a = 1; })();\n', '\n"use strict";\n'];
const page = script => `<html lang="en"><head><title>News</title><script>${script}</script></head><body><p>Text.</p></body></html>\n`;
const pages = ["", "<!DOCTYPE html>\n"].flatMap(doctype => scripts.map(script => doctype + page(script)));
console.log(pages.map(text => magic.detect(Buffer.from(text))).join(" "));
JAVASCRIPT
cd "$work"
seen=()
for version in 1.0.5 1.0.10; do
  npm install --silent --no-save --no-fund --no-audit "wasmagic@$version" >/dev/null
  seen+=("$(node look.mjs)")
  echo "wasmagic $version: ${seen[-1]}"
done
if [ "${seen[0]}" != "application/javascript application/javascript text/html text/html" ] ||
  [ "${seen[1]}" != "text/html text/html text/html text/html" ]; then
  echo changed >&2
  exit 1
fi

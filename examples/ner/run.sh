#!/usr/bin/env bash
# Prepares the rows, trains an adapter and its speculator, measures both. Run it again to go on where it was stopped.
#   DATA=folder of the CoNLL++ files  WORK=folder for everything that is made  ROWS=3000  THREADS=2  ./run.sh
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
: "${DATA:?set DATA to the folder with conllpp_train.txt.gz and conllpp_dev.txt}"
: "${WORK:?set WORK to a folder outside of the repository}"
PYTHON=${PYTHON:-python}
threads=(${THREADS:+--threads "$THREADS"})

[ -s "$WORK/train.jsonl" ] || "$PYTHON" "$here/prepare.py" "$DATA" "$WORK" --rows "${ROWS:-3000}"
"$PYTHON" -m paceline train turbo-lora --data "$WORK/train.jsonl" --output "$WORK/ner" "${threads[@]}"
"$PYTHON" "$here/measure.py" "$WORK/dev.jsonl" "$WORK/ner" "${threads[@]}"
"$PYTHON" -m paceline bench speculation --rows "$WORK/dev.jsonl" --adapter "$WORK/ner" --load 1 --load 8 --prompts 48 \
  "${threads[@]}"

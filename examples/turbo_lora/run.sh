#!/usr/bin/env bash
# Prepares the rows of a task, trains an adapter and its speculator, measures both. Run it again to go on where it
# was stopped.
#   DATA=folder of the task's data  WORK=folder for everything that is made  THREADS=2  ./run.sh entities|matching
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
task=${1:?name a task: entities or matching}
: "${DATA:?set DATA to the folder with the data of the task (see $here/$task.py)}"
: "${WORK:?set WORK to a folder outside of the repository}"
PYTHON=${PYTHON:-python}
threads=(${THREADS:+--threads "$THREADS"})
case $task in
entities) rows=3000 prompts=6000 ;; # there are many sentences: the speculator learns from answers to others as well
matching) rows=700 prompts=0 ;;
esac
train() { "$PYTHON" -m paceline train "$@" "${threads[@]}"; }

[ -s "$WORK/train.jsonl" ] || "$PYTHON" "$here/prepare.py" "$task" "$DATA" "$WORK" --rows $rows --prompts $prompts
if [ -s "$WORK/prompts.jsonl" ]; then
  train lora --data "$WORK/train.jsonl" --output "$WORK/lora"
  # Most of an answer is its form: 8 positions reach from one decision to the next.
  train turbo --adapter "$WORK/lora" --data "$WORK/prompts.jsonl" --max-texts $prompts --positions 8 --output "$WORK/adapter"
else
  train turbo-lora --data "$WORK/train.jsonl" --output "$WORK/adapter"
fi
"$PYTHON" "$here/measure.py" "$task" "$WORK" "$WORK/adapter" "${threads[@]}"
"$PYTHON" -m paceline bench spec --rows "$WORK/dev.jsonl" --adapter "$WORK/adapter" --load 1 --load 8 --prompts 48 \
  "${threads[@]}"

#!/bin/sh
# What people do with curl. Arguments: base URL, then the names that the server has.
set -eu
base_url=$1
model=$2
ask() { curl --silent --show-error --fail-with-body "$@"; }

ask "$base_url/health" | grep '"status"'
ask "$base_url/version" | grep '"version"'
ask "$base_url/metrics" | grep '^vllm:num_requests_running'
ask "$base_url/v1/models" | grep "\"$model\""
ask "$base_url/v1/chat/completions" \
  -H "Content-Type: application/json" \
  -d '{
    "model": "'"$model"'",
    "messages": [{"role": "user", "content": "你好"}],
    "temperature": 0.7,
    "max_tokens": 16
  }' | grep '"chat.completion"'
ask --no-buffer "$base_url/v1/completions" -H "Content-Type: application/json" \
  -d '{"model": "'"$model"'", "prompt": "San Francisco is a", "max_tokens": 8, "stream": true}' | grep '^data: \[DONE\]$'
ask "$base_url/tokenize" -H "Content-Type: application/json" -d '{"prompt": "Hello"}' | grep '"count"'
# without the header curl sends a form, which gets a sentence
curl --silent "$base_url/v1/completions" -d '{"prompt": "a"}' | grep 'application/json'
echo curl done

#!/bin/bash
# Exits with 0 if each model in HEALTH_MODELS (separated by spaces) has an available version.
# The image of TensorFlow Serving has bash but neither curl nor grpc_health_probe, so this script requests the status of
# the models from the REST port (HEALTH_PORT, 8501 by default) through bash's /dev/tcp.
set -o nounset
trap '' PIPE  # if the server closes the connection, exit with 1 instead of dying of SIGPIPE

for model in $HEALTH_MODELS; do
  exec 3<>"/dev/tcp/127.0.0.1/${HEALTH_PORT:-8501}" || exit 1
  printf 'GET /v1/models/%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$model" >&3
  response=$(cat <&3)
  exec 3>&-
  if [[ $response != *'"state": "AVAILABLE"'* ]]; then
    echo "no version of $model is available: ${response##*$'\r\n'}"
    exit 1
  fi
done

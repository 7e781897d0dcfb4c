#!/bin/bash
# Ends with 0 if each model named in HEALTH_MODELS (separated by spaces) has a version that is served.
# Written for the image of TensorFlow Serving, which has bash but neither curl nor grpc_health_probe: it asks the REST
# port (HEALTH_PORT, 8501 by default) for the models' status through bash's own /dev/tcp.
set -o nounset
trap '' PIPE  # a server that hangs up is not healthy, and no reason to end in another way

for model in $HEALTH_MODELS; do
  exec 3<>"/dev/tcp/127.0.0.1/${HEALTH_PORT:-8501}" || exit 1
  printf 'GET /v1/models/%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$model" >&3
  answer=$(cat <&3)
  exec 3>&-
  if [[ $answer != *'"state": "AVAILABLE"'* ]]; then
    echo "no version of $model is served: ${answer##*$'\r\n'}"
    exit 1
  fi
done

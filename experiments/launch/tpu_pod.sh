#!/bin/bash
# The same command on every host of a TPU slice. OUT is a folder that all hosts have mounted, a Filestore share say.
#   experiments/launch/tpu_pod.sh NAME ZONE STUDY.toml OUT
# Each host is told that its four chips are a slice of their own (v4 and v5p; v5e hosts with eight chips want
# CHIPS=2,4,1), so that it neither waits for the others when it starts nor stops when one is lost.
set -eu
name=$1 zone=$2 study=$3 out=$4
chips=${CHIPS:-2,2,1}

gcloud compute tpus tpu-vm scp "$study" "$name:study.toml" --zone "$zone" --worker=all
gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all --command "
    export TPU_CHIPS_PER_PROCESS_BOUNDS=$chips TPU_PROCESS_BOUNDS=1,1,1 CLOUD_TPU_TASK_ID=0
    unset TPU_PROCESS_ADDRESSES
    bdjax run study.toml --out '$out'"

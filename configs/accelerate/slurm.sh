#!/bin/bash
# A run on the nodes of a Slurm job; all that follows the script's name goes to `guided-grpo train`:
#   sbatch --nodes 2 configs/accelerate/slurm.sh --config configs/math-1.7b.yaml --output_dir /shared/runs/mine
#
# Submitted again, or requeued after a node was lost, it goes on from the last checkpoint.
#   LAUNCH_CONFIG    of accelerate; default: ddp-2-nodes.yaml, or the same for another number of nodes
#   LAUNCH_OPTIONS   further words for `accelerate launch`
#SBATCH --job-name=guided-grpo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --requeue
set -euo pipefail

export LAUNCH_CONFIG=${LAUNCH_CONFIG:-$(guided-grpo configs accelerate/ddp-2-nodes.yaml)}
export LAUNCH_OPTIONS=${LAUNCH_OPTIONS:-}
export NODES=${SLURM_JOB_NUM_NODES:-$SLURM_NNODES}
export GPUS=${SLURM_GPUS_ON_NODE:-8}
export MAIN_ADDRESS MAIN_PORT
# Read whole, not through `head`: that closes the pipe at once, and pipefail ends the job where scontrol still writes.
HOSTS=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
MAIN_ADDRESS=${HOSTS%%$'\n'*}
MAIN_PORT=$((20000 + SLURM_JOB_ID % 20000)) # two jobs may share a node

# One launcher a node. A node that is lost ends the step on all of them, with an exit code that is not 0.
# shellcheck disable=SC2016 # the words are the node's to expand
exec srun --kill-on-bad-exit=1 bash -c '
    exec accelerate launch --config_file "$LAUNCH_CONFIG" --num_machines "$NODES" --machine_rank "$SLURM_NODEID" \
        --num_processes "$((NODES * GPUS))" --main_process_ip "$MAIN_ADDRESS" --main_process_port "$MAIN_PORT" \
        $LAUNCH_OPTIONS -m guided_grpo.cli train "$@"
' train "$@"

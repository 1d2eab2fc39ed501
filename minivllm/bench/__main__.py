"""`python -m minivllm.bench COMMAND`: the measurements behind our figures."""

from __future__ import annotations

import argparse

from minivllm.bench import (
    allocator_cost,
    batch_sizes,
    batching,
    battery,
    decode_floor,
    figures,
    gpu,
    kernels,
    kv_waste,
    latency,
    linear,
    parallel,
    picture,
    prefix_caching,
    profile_step,
    quantization,
    report,
    scale,
    scheduler_cost,
    serve,
    sharing,
    soak,
    spec_decode,
    startup,
    step_time,
    throughput,
    xray_cost,
)
from minivllm.bench.peers import referee

COMMANDS = {
    "gpu": gpu,
    "kernels": kernels,
    "decode-floor": decode_floor,
    "quantization": quantization,
    "throughput": throughput,
    "peers": referee,
    "latency": latency,
    "batch-sizes": batch_sizes,
    "batching": batching,
    "battery": battery,
    "kv-waste": kv_waste,
    "prefix-caching": prefix_caching,
    "sharing": sharing,
    "spec-decode": spec_decode,
    "serve": serve,
    "soak": soak,
    "parallel": parallel,
    "picture": picture,
    "profile": profile_step,
    "step-time": step_time,
    "scale": scale,
    "startup": startup,
    "linear": linear,
    "figures": figures,
    "scheduler-cost": scheduler_cost,
    "allocator-cost": allocator_cost,
    "xray-cost": xray_cost,
}


def main() -> None:
    """Parse the command line, run one benchmark, and save its result if asked to."""
    parser = argparse.ArgumentParser(prog="python -m minivllm.bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").splitlines()[0]
        command = commands.add_parser(name, help=summary, description=module.__doc__)
        module.add_arguments(command)
        command.add_argument("--save", action="store_true", help=f"write minivllm/bench/results/{name}.json")
        command.add_argument("--json", metavar="PATH", help="write the result there")
    args = parser.parse_args()
    result = COMMANDS[args.command].run(args)
    if args.save or args.json:
        print("written:", report.save(args.command, result, args.json))
    if result.get("failures"):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

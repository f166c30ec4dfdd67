"""The one change most likely to help, as a flag of the server that was found or, for other servers, in words."""

from __future__ import annotations

from paceline.bench.diagnose.metrics import Kind
from paceline.bench.diagnose.observations import Observations
from paceline.bench.diagnose.wording import cores, gib, percent

ROOM = 0.2  # share of the machine's memory that is worth giving to the KV cache
SMALL_BATCH = 8  # sequences: below it a step has room for more of them at little cost
FEW_HITS = 0.1  # share of prompt tokens found in the prefix cache

SHARED_MACHINE = "Send the load from another machine, or leave the server cores of its own (taskset)."
LATE_MACHINE = "Send the load from a machine that has less to do."
FAR_AWAY = "Bring the clients nearer to the server, and let them keep their connections open."


def for_memory(seen: Observations) -> str:
    """The KV cache is full."""
    local = seen.local
    room = "" if local is None else f" ({gib(local.free_bytes)} of the machine's memory are free)"
    if local is not None and local.free_bytes < ROOM * local.total_bytes:
        running = seen.traffic.peak_running if seen.traffic is not None else None
        below = "" if running is None else f" below the {running:.0f} that run now"
        flag = {"paceline": "--max-running", "vllm": "--max-num-seqs"}.get(seen.kind)
        limit = f"{flag} N" if flag else "with fewer sequences at a time"
        return f"The machine has no memory for a larger cache{room}: start the server with {limit}{below}."
    if seen.kind == "paceline":
        return f"Start the server with a larger --kv-cache-mb{room}."
    if seen.kind == "vllm":
        return f"Start the server with a larger --gpu-memory-utilization (on a CPU VLLM_CPU_KVCACHE_SPACE){room}."
    return f"Give the server more memory for its KV cache{room}."


def for_full_machine(kind: Kind) -> str:
    """The machine has hardly any memory left."""
    flag = {"paceline": " (--kv-cache-mb)", "vllm": " (--gpu-memory-utilization)"}.get(kind, "")
    return f"End other programs on the server's machine, or give the server's KV cache less{flag}."


def for_queue(seen: Observations) -> str:
    """Sequences wait although the KV cache has room."""
    traffic, local = seen.traffic, seen.local
    running = None if traffic is None else traffic.peak_running
    if running is not None and running < SMALL_BATCH:
        flag = {"paceline": "--max-running", "vllm": "--max-num-seqs"}.get(seen.kind, "a larger limit of sequences")
        return f"Start the server with {flag} above {running:.0f}: so few run at a time, and the others only wait."
    if seen.kind == "paceline" and local is not None and local.free_cores >= 1:
        return f"Start the server with more --threads: {cores(local.free_cores)} of {local.cores} cores are idle."
    served = ""
    if traffic is not None and traffic.requests:
        served = f": one serves {traffic.requests / traffic.seconds:.1f} requests a second of this kind"
    return f"Add a second server, or send less{served}."


def for_prefill(seen: Observations) -> str:
    """Prompts take the time."""
    hits = None if seen.traffic is None else seen.traffic.prefix_hits
    if seen.kind == "paceline" and hits is None and seen.traffic is not None:
        return "Start the server with --prefix-cache: it is off, and what prompts have in common is computed each time."
    if hits is not None and hits < FEW_HITS:
        return (
            "Let prompts begin with what they have in common (instructions and examples first, the question last): the "
            f"prefix cache then computes it once. Now it finds {percent(hits)} of the prompt tokens."
        )
    if seen.kind == "paceline" and seen.local is not None and seen.local.free_cores >= 1:
        idle = f"{cores(seen.local.free_cores)} of {seen.local.cores} cores are idle"
        return f"Start the server with more --threads: {idle}, and prefill gains from each."
    return "Send shorter prompts, or use a machine that multiplies faster: prefill is bound by arithmetic."


def for_decode(seen: Observations) -> str:
    """Answers take the time."""
    traffic = seen.traffic
    if traffic is not None and not traffic.drafts:
        if seen.kind == "paceline":
            return "Start the server with --speculate auto: no draft was verified, so every token costs a step."
        if seen.kind == "vllm":
            return "Start the server with --speculative-config: no draft was verified, so every token costs a step."
    if traffic is not None and traffic.running is not None and traffic.running >= SMALL_BATCH:
        return f"Add a second server: {traffic.running:.0f} sequences share each step of this one."
    return "Serve the model in a smaller weights format: a step of few sequences takes as long as reading the weights."

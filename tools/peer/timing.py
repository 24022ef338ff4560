"""How a case is timed and told."""

import json
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


class Bench:
    """Times cases with each number of threads and prints the better one."""

    def __init__(self, threads, seconds, as_json):
        self.threads, self.seconds, self.as_json = threads, seconds, as_json

    def case(self, suite, name, dtype, work, rates=lambda seconds: {}):
        """rates: what follows from the seconds that `work` takes."""
        best = None
        for threads in self.threads:
            torch.set_num_threads(threads)
            times = self.times(work, 1.5 * best[0] if best else float("inf"))
            if best is None or min(times) < best[0]:
                best = (min(times), sorted(times)[len(times) // 2], len(times), threads)
        seconds, median, runs, threads = best
        line = {
            "peer": f"pytorch {torch.__version__}",
            "suite": suite,
            "case": name,
            "dtype": dtype,
            "threads": threads,
            "ms": round(1e3 * seconds, 3),  # the best run
            "median_ms": round(1e3 * median, 3),
            "runs": runs,
        }
        line |= {key: round(value, 3) for key, value in rates(seconds).items()}
        if self.as_json:
            print(json.dumps(line), flush=True)
        else:
            rest = "  ".join(f"{key} {value}" for key, value in list(line.items())[5:])
            print(f"{suite:8} {name:14} {dtype:5} {threads} threads  {rest}", flush=True)

    def times(self, work, hopeless):
        """Seconds of each run after a first one, which alone counts where it is hopeless."""
        first = clock(work)
        if first > hopeless:
            return [first]
        times = [clock(work)]
        while sum(times) < self.seconds or len(times) < 2:
            times.append(clock(work))
        return times


def clock(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def flop(work):
    """Floating-point operations of the matrix products and convolutions in `work`."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()

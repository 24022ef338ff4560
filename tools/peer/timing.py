"""How a case is timed and told."""

import json
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


class Bench:
    """Times cases on a device, on the CPU with each number of threads, and prints the best."""

    def __init__(self, device, threads, seconds, as_json):
        self.device, self.seconds, self.as_json = torch.device(device), seconds, as_json
        self.threads = threads if self.device.type == "cpu" else threads[:1]
        self.name = "cpu"
        if self.device.type == "cuda":
            self.name = torch.cuda.get_device_name(self.device)

    def case(self, suite, name, dtype, work, rates=lambda seconds: {}):
        """The seconds that `work` takes; rates: what follows from them."""
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
            "device": self.name,
            "threads": threads,
            "ms": round(1e3 * seconds, 3),  # the best run
            "median_ms": round(1e3 * median, 3),
            "runs": runs,
        }
        line |= {key: round(value, 3) for key, value in rates(seconds).items()}
        if self.as_json:
            print(json.dumps(line), flush=True)
        else:
            rest = "  ".join(f"{key} {value}" for key, value in list(line.items())[6:])
            where = f"{threads} threads" if self.device.type == "cpu" else self.name
            print(f"{suite:8} {name:14} {dtype:5} {where}  {rest}", flush=True)
        return seconds

    def times(self, work, hopeless):
        """Seconds of each run after a first one, which alone counts where it is hopeless."""
        first = self.clock(work)
        if first > hopeless:
            return [first]
        times = [self.clock(work)]
        while sum(times) < self.seconds or len(times) < 2:
            times.append(self.clock(work))
        return times

    def clock(self, work):
        start = time.perf_counter()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - start


def flop(work):
    """Floating-point operations of the matrix products and convolutions in `work`."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()

"""The progress display of training: a bar with the remaining time, or periodic lines without a terminal."""

import sys
import time

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10


class Progress:
    """Show the progress from step `start` to `stop` on standard error."""

    def __init__(self, start: int, stop: int):
        self.start, self.stop, self.step = start, stop, start
        self.start_time = self.print_time = time.monotonic()
        self.bar = None
        if sys.stderr.isatty():
            self.bar = tqdm(total=stop, initial=start, unit="step", dynamic_ncols=True, file=sys.stderr)

    def update(self, step: int, status: str) -> None:
        now = time.monotonic()
        if self.bar is not None:
            self.bar.set_postfix_str(status, refresh=False)
            self.bar.update(step - self.step)
        elif now - self.print_time > SECONDS_BETWEEN_LINES or step == self.stop:
            left = (now - self.start_time) * (self.stop - step) / max(step - self.start, 1)
            print(f"step {step}/{self.stop}  {status}  {format_time(left)} left", file=sys.stderr, flush=True)
            self.print_time = now
        self.step = step

    def write(self, line: str) -> None:
        (self.bar or tqdm).write(line, file=sys.stderr)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def format_time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

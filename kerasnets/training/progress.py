"""The progress display of training: a bar, or periodic lines without a terminal."""

import sys
import time

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10


class Progress:
    """Show the progress from step `start` to `stop` on standard error."""

    def __init__(self, start: int, stop: int):
        self.start, self.stop, self.step = start, stop, start
        self.first_step = self.first_time = self.line_time = 0.0
        self.bar = None
        if sys.stderr.isatty():
            bar = {"bar_format": "{bar:12} {desc}", "dynamic_ncols": True, "ascii": None}
            self.bar = tqdm(total=stop, initial=start, desc=f"step {start}/{stop}", file=sys.stderr, **bar)

    def update(self, step: int, status: str) -> None:
        now = time.monotonic()
        if self.step == self.start:  # building its graph takes longer than many steps: left out of the estimate
            self.first_step, self.first_time = step, now
        line = f"step {step}/{self.stop}  {self.time_left(step, now)}{status}"
        if self.bar is not None:
            self.bar.set_description_str(line, refresh=False)
            self.bar.update(step - self.step)
        elif now - self.line_time > SECONDS_BETWEEN_LINES or step == self.stop:
            print(line, file=sys.stderr, flush=True)
            self.line_time = now
        self.step = step

    def time_left(self, step: int, now: float) -> str:
        """-> estimate from the time of all steps and validations so far; empty after the first step."""
        if step == self.first_step:
            return ""
        left = (now - self.first_time) * (self.stop - step) / (step - self.first_step)
        return f"{format_time(left)} left  "

    def write(self, text: str) -> None:
        """Print lines above the bar."""
        (self.bar or tqdm).write(text, file=sys.stderr)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def format_time(seconds: float) -> str:
    """-> 2:07, or 1:02:07 with hours"""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

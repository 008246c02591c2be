"""An environment for kills: it answers every turn, takes its time, and gives a reward for each."""

import random
import time

from zoo.api import Environment, Turn


class Talkative(Environment):
    """Says how often it was spoken to, and something at random."""

    def begin(self, record, seed):
        self.heard = 0
        return [{"role": "user", "content": f"hello {seed % 7}"}]

    def step(self, message):
        self.heard += 1
        time.sleep(0.02)
        said = {"role": "user", "content": f"{self.heard} {random.random():.3f}"}
        return Turn([said], done=self.heard == 3, reward=len(message["content"]) / 10)

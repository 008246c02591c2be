"""A sound environment, and one for each check that is broken in the way that this check must catch."""

import os
import random
import tempfile
from pathlib import Path

from zoo.api import Environment, Turn

SHARED = Path(tempfile.gettempdir(), f"zoo-broken-environment-{os.getppid()}")


class Sound(Environment):
    """Knows a number, and is asked for it three times at most."""

    def begin(self, record, seed):
        self.number, self.left = random.randrange(9) + seed % 2, 3

    def ask(self, times: int) -> int:
        """The number, so many times."""
        return self.number * times

    tools = [ask]

    def step(self, message):
        self.left -= 1
        return super().step(message) if self.left > 0 else Turn(done=True, reward=0.0)


class Waiting(Sound):
    """Waits for all that it does."""

    async def begin(self, record, seed):
        super().begin(record, seed)

    async def ask(self, times: int) -> int:
        """The number, so many times."""
        return self.number * times

    tools = [ask]

    async def step(self, message):
        self.left -= 1
        done = self.left <= 0 or not message.get("tool_calls")
        return Turn([] if done else [{"role": "tool", "content": str(await self.ask(2))}], done, 0.0 if done else None)

    async def cut(self, message):
        return 0.0

    async def close(self):
        self.left = 0


class Described(Sound):
    pass


class Tools(Sound):
    """Has a tool that nobody explains."""

    def open(self, door: str) -> str:
        return door

    tools = [open]


class Data(Sound):
    """Brings data that is not there."""

    data = "no-such-file.jsonl"


class Begins(Sound):
    """Takes no odd seed."""

    def begin(self, record, seed):
        assert seed % 2 == 0, "the seed is odd"
        super().begin(record, seed)


class Answers(Sound):
    """Gives a reward that is no number."""

    def step(self, message):
        return Turn(done=True, reward=float("nan"))


class Messages(Sound):
    """Puts words into the policy's mouth."""

    def step(self, message):
        super().step(message)
        return Turn([{"role": "assistant", "content": "I give up."}], done=self.left == 0)


class Wordless(Sound):
    """Says a number that is no text."""

    def step(self, message):
        return Turn([{"role": "user", "content": 3}], done=True)


class Halves(Sound):
    """Says half of a character."""

    def step(self, message):
        return Turn([{"role": "user", "content": "one \ud800"}], done=True)


class Ends(Sound):
    """Goes on for ever."""

    def step(self, message):
        return Turn([{"role": "user", "content": "Go on."}])


class Repeatable(Sound):
    """Draws what no seed gives."""

    def begin(self, record, seed):
        super().begin(record, seed)
        self.number = random.SystemRandom().randrange(10**9)


class Apart(Sound):
    """Keeps its state in a file, which the episode beside it writes too."""

    def begin(self, record, seed):
        SHARED.write_text("0")

    def step(self, message):
        SHARED.write_text(count := str(int(SHARED.read_text()) + 1))
        return Turn([{"role": "user", "content": count}], done=int(count) > 9)


class Nonsense(Sound):
    """Takes for granted that the policy says something."""

    def step(self, message):
        message["content"].split()[0]
        return Turn(done=True, reward=1.0)


class Closes(Sound):
    """Closes what it has not opened."""

    def close(self):
        self.server.shutdown()

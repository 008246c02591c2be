"""A calculator for questions that a small model cannot answer alone, and their source of data.

user         A crate holds 48 pears. How many pears are in 37 crates, if 19 are bad?
assistant    CALC(48 * 37 - 19)
tool         1757
assistant    The answer is 1757.
"""

from __future__ import annotations

import ast
import math
import operator
import random
import re
from collections.abc import Callable, Mapping
from typing import Any

from zoo.environments import Environment, Message, Turn
from zoo.errors import NoSuchSplit, ZooError, nearest

CALL = re.compile(r"CALC\((.*)\)", re.DOTALL)
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
LONGEST = 200
"""Characters of an expression."""
PLAIN: Mapping[type, Callable[..., float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.UAdd: operator.pos, ast.USub: operator.neg,
}  # fmt: skip
INSTRUCTION = "You have a calculator. Write CALC(expression) to use it, and give the answer when you have its result."


class Calculator(Environment):
    """Answers `CALC(expression)`; a turn without it is the final answer, whose last number has to be the right one."""

    data = "calculator"

    def begin(self, record: Mapping[str, Any], seed: int) -> None:
        self.answer = float(record["answer"]) if "answer" in record else None

    def step(self, message: Message) -> Turn:
        call = CALL.search(message["content"])
        if call is None:
            return Turn(done=True, reward=self.score(message))
        return Turn([{"role": "tool", "content": calculated(call[1])}])

    def score(self, message: Message) -> float | None:
        if self.answer is None:
            # A question that somebody types.
            return None
        numbers = NUMBER.findall(message["content"])
        right = bool(numbers) and math.isclose(float(numbers[-1].replace(",", "")), self.answer, rel_tol=1e-9)
        return float(right and CALL.search(message["content"]) is None)


def calculated(expression: str) -> str:
    """The value of an expression of numbers, + - * / and brackets; else what is wrong with it, for the policy."""
    try:
        if len(expression) > LONGEST:
            raise ValueError(f"more than {LONGEST} characters")
        value = _value(ast.parse(expression.strip(), mode="eval").body)
        return str(int(value)) if value == int(value) else f"{value:.6g}"
    except ZeroDivisionError:
        return "Error: division by zero"
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, OverflowError):
        return "Error: write numbers with + - * / and brackets"


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return number
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in PLAIN:
            return PLAIN[type(operation)](_value(left), _value(right))
        case ast.UnaryOp(op=operation, operand=operand) if type(operation) in PLAIN:
            return PLAIN[type(operation)](_value(operand))
    raise ValueError("no arithmetic")


# -- questions ---------------------------------------------------------------------------------------------------

ROWS = {"train": 2000, "heldout": 200}
"""The number of questions in each split."""
THINGS = "apples pens tickets books coins eggs stamps cards bricks bottles".split()
QUESTIONS = (
    ("What is {a} times {b}?", "{a} * {b}"),
    ("What is {a} plus {b}, times {c}?", "({a} + {b}) * {c}"),
    ("A box holds {a} {things}. How many {things} are in {b} boxes?", "{a} * {b}"),
    ("A box holds {a} {things}. How many are left of {b} boxes when {d} {things} are sold?", "{a} * {b} - {d}"),
    ("Ann has {d} {things} and buys {a} packs of {c}. How many {things} does she have?", "{d} + {a} * {c}"),
    ("{a} children get {c} {things} each, and {b} children get {e} each. How many is that?", "{a} * {c} + {b} * {e}"),
    ("Tom had {f} {things}. He gave {a} to Eve and {b} to Ben. How many does he have?", "{f} - {a} - {b}"),
    ("A shop sells {a} {things} a day. How many does it sell in {c} weeks?", "{a} * {c} * 7"),
)
"""Questions, and the expressions that answer them."""


def questions(split: str, kind: str) -> list[dict[str, Any]]:
    """Rows with prompt and answer; with kind `demonstration` a completion that uses the calculator. Raises ZooError."""
    if split not in ROWS:
        raise NoSuchSplit(f"calculator has no split '{split}'.{nearest(split, ROWS)}", f"It has: {', '.join(ROWS)}.")
    if kind not in ("prompt", "demonstration"):
        raise ZooError(f"calculator has prompts and demonstrations, and no data of kind '{kind}'.")
    draw = random.Random(f"calculator {split}")
    return [_row(draw, kind) for _ in range(ROWS[split])]


def _row(draw: random.Random, kind: str) -> dict[str, Any]:
    question, expression = draw.choice(QUESTIONS)
    numbers: dict[str, Any] = {name: draw.randint(12, 99) for name in "abde"}
    numbers |= {"c": draw.randint(3, 19), "f": draw.randint(200, 999), "things": draw.choice(THINGS)}
    asked, written = question.format(**numbers), expression.format(**numbers)
    answer = calculated(written)
    turns = [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": asked}]
    row: dict[str, Any] = {"prompt": turns, "answer": answer}
    if kind == "demonstration":
        row["completion"] = [
            {"role": "assistant", "content": f"CALC({written})"}, {"role": "tool", "content": answer},
            {"role": "assistant", "content": f"The answer is {answer}."},
        ]  # fmt: skip
    return row


def defaults(algorithm: Any) -> dict[str, Any]:
    """Its evaluation, and short episodes for an algorithm that is trained in it."""
    score = {"score": "episodes(environment=calculator)"}
    return {**score, "environment": "calculator", "max_new_tokens": 96} if algorithm.online() else score

"""Environments: what the default `step` makes of the tools of a class."""

import pytest

from zoo.environments import Environment, Turn, schemas_of


class Shop(Environment):
    def __init__(self, factor: float = 1.0):
        self.factor = factor

    def price(self, item: str, count: int = 1) -> float:
        """The price of items."""
        if item == "moon":
            raise LookupError("the moon is not for sale")
        return self.factor * count

    def closed(self) -> bool:
        """Whether the shop is closed."""
        return False

    tools = (price, closed)

    def score(self, message):
        return 1.0 if message["content"] == "4.0" else 0.0


def calling(name, arguments, **more):
    call = {"type": "function", "function": {"name": name, "arguments": arguments}, **more}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def test_functions_become_schemas():
    price, closed = schemas_of(Shop)
    assert price == {"type": "function", "function": {
        "name": "price", "description": "The price of items.", "parameters": {
            "type": "object", "required": ["item"],
            "properties": {"item": {"type": "string"}, "count": {"type": "integer", "default": 1}},
        },
    }}  # fmt: skip
    assert closed["function"]["parameters"] == {"type": "object", "properties": {}, "required": []}


@pytest.mark.parametrize(
    ("call", "says"),
    [(calling("price", {"item": "apple", "count": "2"}), "4.0"), (calling("closed", {}), "False"),
     (calling("price", {"item": "moon"}), "Error: the moon is not for sale"),
     (calling("price", {"itm": "apple"}), "Error: item: Missing required argument; itm: Unexpected keyword argument"),
     (calling("prise", {}), "Error: there is no tool 'prise', only price, closed"),
     (calling("price", {}, error="the arguments are no JSON"), "Error: the arguments are no JSON")],
)  # fmt: skip
def test_a_call_is_answered_whatever_it_is(call, says):
    turn = Shop(factor=2.0).step(call)
    name = call["tool_calls"][0]["function"]["name"]
    assert turn == Turn([{"role": "tool", "name": name, "content": says}])


class Slow(Environment):
    """All that may be async."""

    async def look(self, where: str) -> str:
        """What is there."""
        return f"a door in the {where}"

    tools = (look,)

    async def score(self, message):
        return 0.5


def test_a_tool_and_a_score_may_be_async():
    assert Slow().step(calling("look", {"where": "north"})).messages[0]["content"] == "a door in the north"
    assert Slow().step({"role": "assistant", "content": "out"}) == Turn((), done=True, reward=0.5)
    assert schemas_of(Slow)[0]["function"]["parameters"]["required"] == ["where"]


def test_a_tool_that_no_schema_can_tell_is_named():
    class Any_(Environment):
        def take(self, *things, **more):
            """Everything."""

        tools = (take,)

    with pytest.raises(TypeError, match="the tool take cannot be told as a schema: give each argument a name"):
        schemas_of(Any_)


def test_a_turn_without_a_call_ends_the_episode():
    assert Shop().step({"role": "assistant", "content": "4.0"}) == Turn((), done=True, reward=1.0)
    assert Environment().step({"role": "assistant", "content": "4.0"}) == Turn((), done=True)

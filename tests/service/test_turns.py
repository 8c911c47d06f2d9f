"""Turns of requests within the process: owners take turns for a few places."""

import asyncio

import pytest

from server.errors import Unavailable
from server.service.turns import Turns


def test_requests_take_turns_by_owner() -> None:
    order: list[str] = []

    async def go() -> None:
        turns = Turns(2, wait_s=10)
        goes_on = asyncio.Event()

        async def ask(owner: str, number: int) -> None:
            async with turns.turn(owner):
                order.append(f"{owner}{number}")
                await goes_on.wait()

        tasks = [asyncio.create_task(ask("many", number)) for number in range(4)]
        await asyncio.sleep(0.01)
        assert order == ["many0"], "one place is left for others"
        tasks += [asyncio.create_task(ask("one", number)) for number in range(2)]
        await asyncio.sleep(0.01)
        assert order == ["many0", "one0"]
        goes_on.set()
        await asyncio.gather(*tasks)

    asyncio.run(go())
    assert order[2:4] in (["many1", "one1"], ["one1", "many1"])


def test_a_caller_who_waits_too_long_is_sent_away_and_holds_no_place() -> None:
    async def go() -> None:
        turns = Turns(1, wait_s=0.05)
        async with turns.turn("ann"):
            with pytest.raises(Unavailable):
                async with turns.turn("bob"):
                    pass
            waiting = asyncio.create_task(turns.run("cid", lambda: 1))
            await asyncio.sleep(0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert await turns.run("bob", lambda number: number + 1, 41) == 42

    asyncio.run(go())


def test_at_the_end_a_caller_who_waits_is_reported_at_once() -> None:
    async def go() -> None:
        turns = Turns(1, wait_s=60)
        async with turns.turn("ann"):
            waiting = asyncio.create_task(turns.run("bob", lambda: 1))
            await asyncio.sleep(0.01)
            turns.close()
            with pytest.raises(Unavailable):
                await waiting
            with pytest.raises(Unavailable):
                await turns.run("cid", lambda: 1)

    asyncio.run(go())

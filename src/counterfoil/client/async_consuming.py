"""Handling what a consumer hands out. The asynchronous shell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from counterfoil.client.async_transport import AsyncTransport
from counterfoil.client.calls import Call
from counterfoil.client.consumer_model import Claimed
from counterfoil.client.consuming import LOGGER, Consuming
from counterfoil.client.errors import APIError, CounterfoilError, UsageError
from counterfoil.client.handling import UNSETTLED, holder_of, reason_of
from counterfoil.client.holding import Hold, State
from counterfoil.client.model import Condition, Event, NewEvent, StoredBatch
from counterfoil.client.requests import Ask

T = TypeVar("T")


class _Settle(Protocol):
    """Makes the call that settles a delivery."""

    async def __call__(
        self, hold: Hold, ask: Ask[T], state: State, *, final: bool = False
    ) -> T: ...


def is_interruption(error: BaseException) -> bool:
    """Whether the handler was interrupted by others, and has not failed.

    A handler can be left by a ``CancelledError`` that nobody sent to it: something that it
    waited for was cancelled. That is a failure like any other.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return not isinstance(error, Exception)


class AsyncHeldDelivery:
    """An event in hand: nobody else is handed it until it is settled, or its lease is lost.

    The lease is extended for as long as it takes. Settle it once, with ``done``, ``release`` or
    ``set_aside``; each returns when it is certain.

    In an ``async with`` block, an exception gives the delivery back with the exception as the
    reason, and goes on. To leave the block unsettled without an exception is an error: neither
    a silent acknowledgement nor a silent failure would be what a forgotten branch means.

    >>> async with cf.consume("scorer") as deliveries:
    ...     async for delivery in deliveries:
    ...         async with delivery:
    ...             await delivery.done(await score(delivery.event))
    """

    def __init__(self, core: Consuming, settle: _Settle, hold: Hold) -> None:
        self._core = core
        self._settle = settle
        self._hold = hold

    def __repr__(self) -> str:
        delivery = self._hold.delivery
        state = self._hold.state.name.lower()
        return f"AsyncHeldDelivery(event {delivery.event.id}, attempt {delivery.attempt}, {state})"

    @property
    def event(self) -> Event:
        """The event."""
        return self._hold.delivery.event

    @property
    def attempt(self) -> int:
        """Which attempt this is; 1 is the first."""
        return self._hold.delivery.attempt

    @property
    def token(self) -> str:
        """What fences: the tokens of one event grow with each handing out, compared as text.

        >>> await payments.charge(delivery.event.payload, fence=delivery.token)
        """
        return self._hold.delivery.token

    @property
    def lease_ends(self) -> datetime:
        """Until when it is held for now, by the service's clock."""
        return self._hold.lease.ends

    @property
    def lost(self) -> bool:
        """Whether it is known not to be held any more, so that there is no use in going on."""
        return self._hold.state is State.LOST

    @property
    def settled(self) -> bool:
        """Whether it was acknowledged, given back or set aside from here."""
        return self._hold.state not in {State.HELD, State.LOST}

    async def done(
        self,
        *events: NewEvent | Mapping[str, Any],
        condition: Condition | None = None,
        idempotency_key: str | None = None,
    ) -> StoredBatch | None:
        """Acknowledge it, and append what came of it in the same step: both, or neither.

        >>> await delivery.done(
        ...     NewEvent(agent_name="scorer", event_type="score", payload={"score": 7})
        ... )
        StoredBatch(ids=(58,), …)

        Args:
            events: what came of it; up to 1,000.
            condition: do so only under this condition; see also ``guard``.
            idempotency_key: as of ``events.append``. When it is not given, it follows from the
                delivery and the events: the same call again is the same acknowledgement.

        Returns:
            What was stored; ``None`` without events.

        Raises:
            LeaseLost: it is not held any more; nothing was done or written.
            ConditionFailed: something was written in between. It stays in hand: look again.
            OutcomeUnknown: the service could not be reached until the lease was over. The same
                call again brings what came of it.
            UsageError: it has been settled already.
            CounterfoilError: as ``events.append_batch``.
        """
        ask = self._core.done(self._hold, events, condition, idempotency_key)
        return await self._settle(self._hold, ask, State.DONE)

    async def release(
        self, *, delay_seconds: float | None = None, reason: str | None = None
    ) -> None:
        """Give it back, to be handed out again.

        >>> await delivery.release(delay_seconds=60, reason="The bank's interface is closed.")

        Args:
            delay_seconds: when; 0: at once; left out: after the consumer's backoff.
            reason: why the attempt failed, up to 500 characters. Without one it was only given
                back, and the attempt does not count.

        Raises:
            LeaseLost: it is not held any more.
            UsageError: it has been settled already.
            CounterfoilError: as ``events.append``.
        """
        ask = self._core.release(self._hold, delay_seconds, reason)
        await self._settle(self._hold, ask, State.GIVEN_BACK)

    async def set_aside(self, reason: str) -> int:
        """Make a dead letter of it, however many attempts are left.

        >>> await delivery.set_aside("The currency is unknown.")
        59

        Args:
            reason: why, up to 500 characters; it stands in the book.

        Returns:
            The id of the event that says so.

        Raises:
            LeaseLost: it is not held any more.
            UsageError: it has been settled already.
            CounterfoilError: as ``events.append``.
        """
        ask = self._core.set_aside(self._hold, reason)
        (said_by,) = await self._settle(self._hold, ask, State.SET_ASIDE)
        return said_by

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._hold.settling or self._hold.state is not State.HELD:
            return
        if exc is None:
            await self._fails(UNSETTLED)
            raise UsageError(
                f"The block was left, and event {self.event.id} was neither done, given back nor "
                "set aside. It was given back, as a failed attempt. End each branch with "
                "`done()`, `release()` or `set_aside()`."
            )
        await self._fails(None if is_interruption(exc) else reason_of(exc))

    async def _fails(self, reason: str | None) -> None:
        delay_seconds = 0 if reason is None else None
        ask = self._core.release(self._hold, delay_seconds, reason)
        try:
            await self._settle(self._hold, ask, State.GIVEN_BACK, final=True)
        except CounterfoilError as error:
            LOGGER.warning("Event %d could not be given back: %s", self.event.id, error)


class AsyncDeliveries:
    """What a consumer hands out, one delivery after another, for as long as one goes on.

    Use it in an ``async with`` block: leaving it gives back what has not been settled. Without
    one, leaving the loop does so, a moment later. It runs under asyncio.

    >>> async with cf.consume("scorer") as deliveries:
    ...     async for delivery in deliveries:
    ...         await delivery.done(await score(delivery.event))
    """

    def __init__(
        self,
        transport: AsyncTransport,
        consumer: str,
        *,
        holder: str | None,
        max_at_once: int,
        wait_seconds: float,
    ) -> None:
        self._core = Consuming(
            consumer,
            holder=holder_of(holder),
            max_at_once=max_at_once,
            wait_seconds=wait_seconds,
            policy=transport.settings.policy,
            now=lambda: asyncio.get_running_loop().time(),
        )
        self._transport = transport
        self._in_block = False
        self._turn = asyncio.Lock()
        self._closing = asyncio.Lock()
        self._news = asyncio.Event()
        self._stopped = asyncio.Event()
        self._extender: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"AsyncDeliveries({self._core})"

    @property
    def holder(self) -> str:
        """Under which name deliveries are held."""
        return self._core.holder

    async def next(self) -> AsyncHeldDelivery | None:
        """Return the next delivery, however long it takes; ``None`` when stopped.

        While the service is unavailable, this goes on trying.

        >>> while (delivery := await deliveries.next()) is not None:
        ...     await delivery.done()

        Raises:
            UsageError: with ``max_at_once=1``, the one before has not been settled.
            APIError: the service refuses: no key, no scope, no such consumer …
        """
        async with self._turn:
            while not self._core.stopped:
                step = self._core.step()
                if isinstance(step, Hold):
                    return AsyncHeldDelivery(self._core, self._settle, step)
                if step is None:
                    await self._changed(None)
                else:
                    await self._unless_stopped(self._claim(step))
            await self._give_back(unhandled=True)
            return None

    async def __aiter__(self) -> AsyncGenerator[AsyncHeldDelivery, None]:
        try:
            while (delivery := await self.next()) is not None:
                yield delivery
        finally:
            if not self._in_block:
                await self.close()

    def stop(self) -> None:
        """Claim nothing more: ``next`` returns ``None``, and the loop ends.

        What is in hand stays so, its lease extended, until it is settled or this is closed.

        >>> deliveries.stop()
        """
        self._core.stopped = True
        self._stopped.set()
        self._wake()

    async def close(self) -> None:
        """Stop, and give back what is in hand. Does nothing the second time.

        >>> await deliveries.close()
        """
        self.stop()
        async with self._closing:
            if self._extender is not None:
                self._extender.cancel()
                await asyncio.wait({self._extender})
                self._extender = None
            await self._give_back()

    async def __aenter__(self) -> Self:
        self._in_block = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # --- What goes on inside ------------------------------------------------------------

    async def _settle(self, hold: Hold, ask: Ask[T], state: State, *, final: bool = False) -> T:
        """Make the call that settles a delivery, for as long as its lease lasts."""
        call = Call(ask, self._transport.settings.policy)
        self._core.begin(hold)
        try:
            while True:
                try:
                    value = await self._transport.make(call)
                except APIError as error:
                    wait = self._core.not_settled(hold, error)
                else:
                    self._core.settled(hold, state)
                    return value
                await self._transport.sleep(wait)
                call.once_more()
        finally:
            self._core.end(hold, final=final)
            self._wake()

    async def _claim(self, ask: Ask[Claimed]) -> None:
        try:
            wait = self._core.claimed(await self._transport.run(ask))
        except APIError as error:
            wait = self._core.not_claimed(error)
        if self._extender is None:
            self._extender = asyncio.create_task(self._extend())
        self._wake()
        if wait:
            await self._transport.sleep(wait)

    async def _extend(self) -> None:
        try:
            while True:
                extension = self._core.extension()
                if extension is None:
                    await self._changed(self._core.extension_in())
                    continue
                try:
                    lease = await self._transport.run(extension.ask)
                except APIError as error:
                    wait = self._core.not_extended(extension, error)
                    self._wake()
                    await self._transport.sleep(wait)
                else:
                    self._core.extended(extension, lease)
        except Exception as error:  # noqa: BLE001 - whoever asks for the next hears of it
            self._core.failed(error)
            self._wake()

    async def _give_back(self, *, unhandled: bool = False) -> None:
        while (back := self._core.giving_back(unhandled=unhandled)) is not None:
            try:
                await self._transport.run(back.ask)
            except CounterfoilError as error:
                self._core.not_given_back(back, error)
            except BaseException:
                self._core.giving_back_broke_off(back)
                raise
            else:
                self._core.given_back(back)

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        working = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            unfinished = {task for task in (working, stopping) if not task.done()}
            for task in unfinished:
                task.cancel()
            if unfinished:
                await asyncio.wait(unfinished)
            refusal = None if working.cancelled() else working.exception()
        if refusal is not None:
            raise refusal

    async def _changed(self, seconds: float | None) -> None:
        """Wait until something has changed, and no longer than so many seconds."""
        self._news.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            pass

    def _wake(self) -> None:
        self._news.set()

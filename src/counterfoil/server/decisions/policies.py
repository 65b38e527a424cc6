"""The verbs of policies, and the versions that this process has compiled.

What drafts, activates or retires a version is an event in the book, and its effect is the row in
the same step (``11_policies.sql``): so there is one order for what is decided and by which rules.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

from counterfoil.server.core import limits
from counterfoil.server.core.errors import (
    Busy,
    EffectRefused,
    FourEyes,
    InvalidInput,
    PolicyNotActive,
    PolicyNotFound,
    PolicyRefused,
    TooMany,
)
from counterfoil.server.decisions.judging import JudgedPolicy, compiled_policy, judge_policy
from counterfoil.server.decisions.model import Activation, Retirement
from counterfoil.server.decisions.record import policy_tag
from counterfoil.server.decisions.store import DecisionStore, StoredPolicy
from counterfoil.server.log.model import AppendRequest
from counterfoil.server.log.operations import Log, Stored
from counterfoil.server.log.own import Made, own_append, own_event
from counterfoil.server.log.parameters import Listed, after_cursor, list_cursor, refused_list_cursor

_NO_POLICY: Final = "There is no policy of this name."
_NOT_ACTIVE: Final = (
    "No version of this policy is in force. Somebody else than its author has to activate one."
)


class Policies:
    """The policies of all tenants, as one process sees them."""

    def __init__(self, log: Log, store: DecisionStore) -> None:
        self._log = log
        self._store = store
        self._active: OrderedDict[tuple[int, str], int] = OrderedDict()
        self._compiled: OrderedDict[tuple[int, str, int], JudgedPolicy] = OrderedDict()

    # --- What decides -----------------------------------------------------------------

    async def in_force(self, tenant_id: int, name: str) -> tuple[int, JudgedPolicy]:
        """The version that is in force, as far as this process knows, compiled.

        Whoever reads by it finds out in the same statement whether it still is, and says so
        (``learn``).

        Raises:
            PolicyNotFound, PolicyNotActive, NotDecided
            DatabaseUnavailable, ReadTooSlow
        """
        version = self._active.get((tenant_id, name))
        if version is None:
            stored = await self._store.policy(tenant_id, name)
            if stored is None:
                raise await self._none_in_force(tenant_id, name)
            version = stored.version
            self._know(tenant_id, name, version)
        return version, await self.version(tenant_id, name, version)

    def learn(self, tenant_id: int, name: str, version: int | None) -> None:
        """Another version is in force than this process knew; None: none is."""
        if version is None:
            self._active.pop((tenant_id, name), None)
        else:
            self._know(tenant_id, name, version)

    async def version(self, tenant_id: int, name: str, version: int) -> JudgedPolicy:
        """One version, compiled. It never changes, so it is compiled once.

        Raises:
            PolicyNotFound, NotDecided
            DatabaseUnavailable, ReadTooSlow
        """
        place = (tenant_id, name, version)
        compiled = self._compiled.get(place)
        if compiled is None:
            stored = await self._store.policy(tenant_id, name, version)
            if stored is None:
                raise PolicyNotFound(f"This policy has no version {version}.")
            # Compiling a large one takes milliseconds, in which others would not be heard.
            compiled = await asyncio.to_thread(compiled_policy, stored.document)
            self._compiled[place] = compiled
            if len(self._compiled) > limits.POLICIES_REMEMBERED_MAX:
                self._compiled.popitem(last=False)
        else:
            self._compiled.move_to_end(place)
        return compiled

    def _know(self, tenant_id: int, name: str, version: int) -> None:
        self._active[tenant_id, name] = version
        if len(self._active) > limits.RULES_REMEMBERED_MAX:
            self._active.popitem(last=False)

    async def _none_in_force(self, tenant_id: int, name: str) -> PolicyNotFound | PolicyNotActive:
        newest = await self._store.newest_policy(tenant_id, name)
        return PolicyNotFound(_NO_POLICY) if newest is None else PolicyNotActive(_NOT_ACTIVE)

    # --- Looking ----------------------------------------------------------------------

    async def one(self, tenant_id: int, name: str, version: int | None) -> str:
        """One version of a policy as JSON, or (None) the one in force.

        Raises:
            PolicyNotFound, PolicyNotActive
        """
        stored = await self._store.policy(tenant_id, name, version)
        if stored is None:
            newest = await self._store.newest_policy(tenant_id, name)
            if newest is not None and version is not None:
                raise PolicyNotFound(f"This policy has no version {version}.")
            raise await self._none_in_force(tenant_id, name)
        return _shown(stored)

    async def versions(self, tenant_id: int, name: str) -> tuple[str, ...]:
        """All versions of a policy as JSON texts, the newest first. Raises ``PolicyNotFound``."""
        texts = await self._store.versions(tenant_id, name)
        if not texts:
            raise PolicyNotFound(_NO_POLICY)
        return tuple(texts)

    async def all(self, tenant_id: int, *, limit: int, cursor: str | None) -> Listed:
        """A page of a tenant's policies. Raises ``InvalidInput`` for a cursor that is none."""
        rows = await self._store.policies(tenant_id, after=_after(cursor), limit=limit + 1)
        page = rows[:limit]
        following = list_cursor(page[-1].name) if len(rows) > limit else None
        return Listed(tuple(row.text for row in page), following)

    # --- Changing ---------------------------------------------------------------------

    async def draft(
        self, tenant_id: int, name: str, document: Mapping[str, Any], *, by: str, key: str | None
    ) -> Made:
        """Draft the next version of a policy. One that says the same as the newest is that one.

        Args:
            document: the policy, as it was sent.
            by: the principal who asks: its author.
            key: its idempotency key.

        Raises:
            PolicyRefused: it may not be published; with every fault at its place.
            TooMany: the tenant has ``POLICIES_MAX``.
            IdempotencyMismatch, Unavailable: as an append does.
        """
        try:
            # Judging and running the examples takes milliseconds, in which others would not be heard.
            judged = await asyncio.to_thread(judge_policy, document)
        except InvalidInput as refusal:
            raise PolicyRefused(str(refusal), refusal.errors) from None
        for _ in range(limits.RULES_TRIES_MAX):
            newest = await self._store.newest_policy(tenant_id, name)
            same = newest is not None and newest[1] == judged.digest
            if newest is not None and same and key is None:
                return Made(
                    await self.one(tenant_id, name, newest[0]), created=False, replayed=False
                )
            # Where it says the same, only an earlier call with this key can be answered: its version
            # is none that can be taken.
            version = 1 if newest is None else newest[0] + (0 if same else 1)
            if version > limits.POLICY_VERSIONS_MAX:
                raise TooMany(
                    f"A policy has at most {limits.POLICY_VERSIONS_MAX:,} versions. Draft the next one "
                    "under another name."
                )
            try:
                stored = await self._log.append(
                    tenant_id, _drafting(name, version, judged, by=by, key=key)
                )
            except EffectRefused as refused:
                if refused.reason == "too_many":
                    raise TooMany(f"A tenant has at most {limits.POLICIES_MAX} policies.") from None
                if newest is not None and same:
                    text = await self.one(tenant_id, name, newest[0])
                    return Made(text, created=False, replayed=False)
                continue  # Somebody drafted a version in between.
            return await self._made(tenant_id, stored, created=True)
        raise Busy("This policy is drafted faster than its versions can be numbered; try again.")

    async def activate(
        self,
        tenant_id: int,
        name: str,
        version: int,
        asked: Activation,
        *,
        by: str,
        key: str | None,
    ) -> Made:
        """Put a version in force, in the place of the one that is.

        Raises:
            PolicyNotFound: there is no such version.
            FourEyes: who asks has drafted it.
            IdempotencyMismatch, Unavailable: as an append does.
        """
        row = {"name": name, "version": version}
        found = await self._store.policy(tenant_id, name, version)
        if found is None:
            raise PolicyNotFound(f"There is no version {version} of this policy.")
        told = {**row, "digest": found.digest, "reason": asked.reason}
        request = own_append(
            own_event(
                "policy_activated", {**told, "by": by}, tags=[policy_tag(name)], principal=by
            ),
            effect={"effect": "activate_policy", **row, "by": by},
            asked={"call": "activate_policy", **row, **asked.model_dump()},
            key=key,
        )
        try:
            stored = await self._log.append(tenant_id, request)
        except EffectRefused as refused:
            if refused.reason == "unchanged":
                return Made(await self.one(tenant_id, name, version), created=False, replayed=False)
            if refused.reason == "own_draft":
                raise FourEyes(
                    "Whoever drafted a version cannot put it in force: it needs a second pair of "
                    "eyes. Let somebody else activate it, with a key of their own."
                ) from None
            raise PolicyNotFound(f"There is no version {version} of this policy.") from None
        if not stored.replayed:
            self.learn(tenant_id, name, version)
        return await self._made(tenant_id, stored, created=False)

    async def retire(
        self, tenant_id: int, name: str, asked: Retirement, *, by: str, key: str | None
    ) -> Made:
        """Take a policy out of force: nothing is decided by it any more.

        Raises:
            PolicyNotFound, PolicyNotActive: there is none that could be retired.
            IdempotencyMismatch, Unavailable: as an append does.
        """
        for _ in range(limits.RULES_TRIES_MAX):
            found = await self._store.policy(tenant_id, name)
            if found is None and key is None:
                raise await self._none_in_force(tenant_id, name)
            try:
                stored = await self._log.append(
                    tenant_id, _retiring(name, found, asked, by=by, key=key)
                )
            except EffectRefused:
                if found is None:
                    raise await self._none_in_force(tenant_id, name) from None
                continue  # Another version was put in force in between, or it was retired.
            self.learn(tenant_id, name, None)
            return await self._made(tenant_id, stored, created=False)
        raise Busy("The versions of this policy change faster than it can be retired; try again.")

    async def _made(self, tenant_id: int, stored: Stored, *, created: bool) -> Made:
        told = await self._log.payload(tenant_id, stored.first_position)
        text = await self.one(tenant_id, told["name"], told["version"])
        return Made(text, created=created, replayed=stored.replayed)


def _drafting(
    name: str, version: int, judged: JudgedPolicy, *, by: str, key: str | None
) -> AppendRequest:
    told = {"name": name, "version": version, "digest": judged.digest, "by": by}
    return own_append(
        own_event("policy_drafted", told, tags=[policy_tag(name)], principal=by),
        effect={"effect": "draft_policy", **told, "document": judged.text},
        asked={"call": "draft_policy", "name": name, "digest": judged.digest},
        key=key,
    )


def _retiring(
    name: str, active: StoredPolicy | None, asked: Retirement, *, by: str, key: str | None
) -> AppendRequest:
    # Where none is active, only an earlier call with this key can be answered.
    row = {"name": name, "version": 0 if active is None else active.version}
    told = {**row, "reason": asked.reason, "by": by}
    return own_append(
        own_event("policy_retired", told, tags=[policy_tag(name)], principal=by),
        effect={"effect": "retire_policy", **row, "by": by},
        asked={"call": "retire_policy", "name": name, **asked.model_dump()},
        key=key,
    )


def _shown(stored: StoredPolicy) -> str:
    # Put together as text: what was kept is shown byte for byte.
    return f'{stored.text.rstrip().removesuffix("}")},"policy":{stored.document}}}'


def _after(cursor: str | None) -> str:
    """The policy that a page begins behind. Raises ``InvalidInput``."""
    if cursor is None:
        return ""
    after = after_cursor(cursor)
    if not 1 <= len(after) <= limits.POLICY_NAME_CHARACTERS_MAX or "\0" in after:
        raise refused_list_cursor()
    return after

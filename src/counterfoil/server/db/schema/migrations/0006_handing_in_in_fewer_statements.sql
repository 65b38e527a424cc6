-- An append that hands in what its writer holds, with fewer statements: what it hands in is looked up
-- once, with the locks, and taken out by where it was found. Most of what such an append took longer than
-- another went into asking three times what was asked for.
--
-- append_v4 keeps its name: it takes and answers what it did. Processes of the release before go on.

-- squawk-ignore ban-drop-function
drop function counterfoil.tokens_in_force(integer, counterfoil.new_request[]);
-- squawk-ignore ban-drop-function
drop function counterfoil.tokens_of(counterfoil.new_request[]);
-- squawk-ignore ban-drop-function
drop function counterfoil.holders_in_group(integer, counterfoil.token[]);
-- squawk-ignore ban-drop-function
drop function counterfoil.hand_in_fault(integer, jsonb, counterfoil.token[]);
-- squawk-ignore ban-drop-function
drop function counterfoil.hand_in(integer, counterfoil.token[]);
-- squawk-ignore ban-drop-function
drop function counterfoil.write_run(
    integer, counterfoil.new_event[], counterfoil.new_request[], integer, bigint, timestamptz,
    boolean);

-- Writes a run of accepted requests: their events at the positions after p_head, their tags
-- and their keys; and takes what they hand in out of their hands. Only append_v4 may call it, under
-- the lock.
create function counterfoil.write_run(
    p_tenant_id integer,
    p_events counterfoil.new_event[],
    p_requests counterfoil.new_request[],
    -- where the run begins in its group: how many events are before it
    p_events_before integer,
    p_head bigint,
    p_created_at timestamptz,
    p_keyed boolean,
    -- what these requests hand in, locked
    p_held counterfoil.held_delivery[] default '{}'
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into counterfoil.events (
        tenant_id, position, agent_name, event_type, payload, tags, created_at,
        occurred_at, caused_by, context, salt, digest, principal)
    select p_tenant_id, p_head + e.nth, e.agent_name, e.event_type, e.payload, e.tags,
           p_created_at, e.occurred_at, e.caused_by, e.context, e.salt, e.digest, e.principal
    from unnest(p_events) with ordinality as e (
        agent_name, event_type, payload, payload_bytes, tags, occurred_at, caused_by,
        context, salt, digest, principal, request, nth);

    insert into counterfoil.event_tags (tenant_id, tag, position)
    select p_tenant_id, t.tag, p_head + e.nth
    from unnest(p_events) with ordinality as e (
        agent_name, event_type, payload, payload_bytes, tags, occurred_at, caused_by,
        context, salt, digest, principal, request, nth)
    cross join lateral unnest(e.tags) as t (tag);

    if p_keyed then
        insert into counterfoil.idempotency_keys (
            tenant_id, principal, key, content_digest, first_position, event_count, created_at)
        select p_tenant_id, r.principal, r.key, r.content_digest,
               p_head + r.events_to - r.events_count - p_events_before + 1, r.events_count,
               p_created_at
        from unnest(p_requests) as r
        where r.key is not null;
    end if;

    if p_held <> '{}' then
        perform counterfoil.hand_in(p_tenant_id, p_held);
    end if;
end
$$;

create or replace function counterfoil.append_v4(
    p_tenant_id integer,
    -- [{"operation", "principal", "key"?, "traceparent"?, "cause_max"?,
    --   "events": [{"agent_name", "event_type", "payload", "tags", "occurred_at"?,
    --               "caused_by"?, "context"?}],
    --   "condition": {"fail_if": query, "after"?, "incarnation"?}?,
    --   "hands_in"?: {"consumer", "tokens": [[generation, position, attempt], …]},
    --   "rules"?: position, "own"?: true, "effect"?: {…}, "asked"?: {…}}, …]
    -- Of a request with a key, `asked` is what its content is compared by; without it, all of
    -- it but what each try adds.
    p_requests jsonb,
    p_lock_wait_milliseconds integer,
    -- The requests that are not in `others` were stored, in their order: the first of their
    -- events at first_position, and the next at the positions that follow, without gaps.
    out first_position bigint,
    out created_at text,
    -- the book's last position when the group is done
    out head bigint,
    -- how far the book's last time lay ahead of the server's clock
    out clock_ahead_seconds double precision,
    -- whether some process may be waiting to hear of a new head
    out has_listeners boolean,
    -- null, or of each request that was not stored:
    --   {"request": its place in the group, from 0,
    --    "status": replayed, key_reused, frozen, rules_changed, payload_too_large,
    --              book_restored, after_above_head, condition_failed, unknown_cause,
    --              effect_refused, lease_lost or consumer_not_found; or row_busy: nothing is
    --              known of it yet, and it is to be sent again,
    --    "head": the book's last position as this request saw it,
    --    "first_position", "created_at": of the answer that is given again,
    --    "detail": condition_failed: the first positions in the way;
    --              payload_too_large: the event's index; frozen: the freeze's id,
    --    "reason": effect_refused: why, in one word}
    out others jsonb
)
language plpgsql volatile
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_bitmapscan = off
set enable_seqscan = off
set jit = off
as $$
declare
    -- What one payload may measure as PostgreSQL writes it out (PAYLOAD_BYTES_MAX).
    c_payload_bytes_max constant integer := 262144;
    -- How many events in the way a refusal shows (CONFLICTS_MAX).
    c_conflicts_max constant integer := 20;
    -- Whoever listens for new heads holds this advisory lock, shared (queries.sql, listen).
    c_listeners_lock constant bigint := 7163395187;

    v_requests counterfoil.new_request[];
    v_request counterfoil.new_request;
    v_events counterfoil.new_event[];       -- of all requests, in their order
    v_asked counterfoil.asked_value[];      -- of all conditions
    v_oversized integer[];                  -- requests with a payload that is too large
    v_suspects integer[] := '{}';           -- requests whose condition may be violated
    v_special integer[];                    -- requests that need a look of their own
    v_early jsonb := '{}';                  -- conflicts that were found before the lock
    v_conflicts bigint[];
    v_keyed boolean;                        -- a request of the group has a key
    v_conditional boolean;                  -- or a condition
    v_named integer;                        -- how many deliveries the group hands in
    v_holding integer[] := '{}';            -- requests that still hold what they hand in
    v_all_hold boolean := true;             -- and whether those are all that hand something in
    v_held counterfoil.held_delivery[] := '{}';     -- what they hold, locked
    v_effects boolean;                      -- a request of the group has an effect
    v_plain boolean;                        -- or nothing of the group can be refused
    v_seed bytea := uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid());
    v_seen bigint := 0;                     -- the head before the lock
    v_last_time timestamptz;
    v_now timestamptz;
    v_incarnation text;
    v_complete boolean;
    v_nth integer;
    v_stored record;
    v_status text;
    v_detail bigint[];
    v_reason text;
    v_answer jsonb;
    v_rules_min bigint;                     -- what the group was judged under
    v_rules_max bigint;
    v_rules bigint;                         -- what it has to be judged under
    v_freezes boolean;                      -- something in the book may be frozen
    v_freeze bigint;                        -- one that holds a request's events
    v_frozen integer[];                     -- requests that write what is frozen
    v_effect_from integer;                  -- the first request with an effect
    v_before integer;                       -- events of the group before this request
    v_run_from integer := 1;                -- the first accepted, unwritten request
    v_run_before integer := 0;              -- events of the group before that one
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'append_v4 must run at READ COMMITTED: what is committed while it waits must be seen'
            using errcode = 'invalid_transaction_state';
    end if;
    -- Two ways lead here, the caller's setting and the caller's argument, and both must name
    -- the same book: row-level security goes by the first.
    if counterfoil.current_tenant() is distinct from p_tenant_id then
        raise exception 'append_v4 was called for tenant % in a transaction that is not that tenant''s',
            p_tenant_id using errcode = 'insufficient_privilege';
    end if;
    -- An acknowledged event is a flushed event, whatever the role or the database say.
    if current_setting('synchronous_commit') not in ('on', 'remote_apply') then
        perform set_config('synchronous_commit', 'on', true);
    end if;
    perform set_config('lock_timeout', p_lock_wait_milliseconds::text, true);

    ---- 1. Before the lock -----------------------------------------------------------

    -- Each event has a salt of its own: a digest of a seed that is kept nowhere and of the
    -- event's place. One salt tells nothing of another, and random bytes for each would cost
    -- as much as the rest of this statement. The innermost subquery is not flattened
    -- (`offset 0`), so that the salt of the digest is the salt that is stored.
    select array_agg(
        row(s.agent_name, s.event_type, s.payload, octet_length(s.payload_text),
            coalesce(s.tags, '{}'), s.occurred_at, coalesce(s.caused_by, '{}'),
            case when s.traceparent is not null
                 then jsonb_build_object('traceparent', s.traceparent) || coalesce(s.context, '{}')
                 else s.context end,
            s.salt, sha256(s.salt || convert_to(s.payload_text, 'UTF8')), s.principal,
            s.request
        )::counterfoil.new_event
        order by s.request, s.nth),
        array_agg(s.request) filter (where octet_length(s.payload_text) > c_payload_bytes_max)
    into v_events, v_oversized
    from (
        select r.nth::integer as request, r.principal, r.traceparent, e.*,
               e.payload::text as payload_text,
               substr(sha256(v_seed || int4send(r.nth::integer) || int4send(e.nth::integer)), 1, 16) as salt
        from rows from (jsonb_to_recordset(p_requests) as (
            principal text, traceparent text, events jsonb)) with ordinality
            as r (principal, traceparent, events, nth)
        cross join lateral rows from (jsonb_to_recordset(r.events) as (
            agent_name text, event_type text, payload jsonb, tags text[],
            occurred_at timestamptz, caused_by bigint[], context jsonb)) with ordinality
            as e (agent_name, event_type, payload, tags, occurred_at, caused_by, context, nth)
        offset 0
    ) as s;

    select array_agg(
               row(r.request ->> 'principal', r.request ->> 'key',
                   -- What must be equal for two requests to be the same: the operation, the
                   -- events and the condition. Not what the transport adds to each try.
                   case when r.request ? 'key' then sha256(convert_to(
                       coalesce(r.request -> 'asked', r.request - array[
                           'principal', 'key', 'traceparent', 'rules'])::text, 'UTF8')) end,
                   r.events_count, r.events_to, (r.request ->> 'cause_max')::bigint,
                   r.request -> 'condition' -> 'fail_if',
                   case when r.request ? 'condition'
                        then coalesce((r.request -> 'condition' ->> 'after')::bigint, 0) end,
                   r.request -> 'condition' ->> 'incarnation',
                   coalesce((r.request ->> 'rules')::bigint, 0), r.request ? 'own',
                   r.request -> 'effect', r.request -> 'hands_in'
               )::counterfoil.new_request order by r.nth),
           bool_or(r.request ? 'key'), bool_or(r.request ? 'condition'),
           coalesce(sum(jsonb_array_length(r.request -> 'hands_in' -> 'tokens')), 0),
           bool_or(r.request ? 'effect'),
           not bool_or(r.request ?| array['key', 'condition', 'cause_max', 'own']),
           min(coalesce((r.request ->> 'rules')::bigint, 0)),
           max(coalesce((r.request ->> 'rules')::bigint, 0)),
           -- Counting on with a null would answer `stored` to a group that was not written.
           bool_and(coalesce(r.events_count > 0, false))
    into v_requests, v_keyed, v_conditional, v_named, v_effects, v_plain, v_rules_min, v_rules_max,
         v_complete
    from (
        select e.request, e.nth, jsonb_array_length(e.request -> 'events') as events_count,
               sum(jsonb_array_length(e.request -> 'events')) over (order by e.nth) as events_to
        from jsonb_array_elements(p_requests) with ordinality as e (request, nth)
    ) as r;
    if v_complete is not true then
        raise exception 'every request appends at least one event'
            using errcode = 'invalid_parameter_value';
    end if;
    v_plain := v_plain and v_oversized is null;

    if v_conditional then
        select array_agg(row(r.nth, i.nth, w.way, v.value,
                             case when w.way = 'tag' then jsonb_array_length(w.values) else 1 end,
                             r.after)::counterfoil.asked_value)
        into v_asked
        from unnest(v_requests) with ordinality as r (
            principal, key, content_digest, events_count, events_to, cause_max, fail_if,
            after, incarnation, rules, own, effect, hands_in, nth)
        left join lateral jsonb_array_elements(r.fail_if) with ordinality as i (item, nth) on true
        left join lateral (
            select case when i.item -> 'tags' <> '[]' then 'tag'
                        when i.item -> 'agents' <> '[]' then 'agent'
                        when i.item -> 'types' <> '[]' then 'type' end as way,
                   coalesce(nullif(i.item -> 'tags', '[]'), nullif(i.item -> 'agents', '[]'),
                            i.item -> 'types') as values
        ) as w on true
        left join lateral jsonb_array_elements_text(w.values) as v (value) on true
        where r.after is not null;

        select e.position into v_seen from counterfoil.events e
        where e.tenant_id = p_tenant_id order by e.position desc limit 1;
        v_seen := coalesce(v_seen, 0);
        -- Many of these are no violations: a tag that others bear too, under another type. Held
        -- against the rule here, outside the lock, they need no look of their own under it.
        -- A condition without a query asks nothing, and any event of the group violates it.
        foreach v_nth in array
            coalesce(counterfoil.may_match(p_tenant_id, v_asked, 0, v_seen), '{}')
        loop
            v_conflicts := array(
                select counterfoil.matching_v1(
                    p_tenant_id, v_requests[v_nth].fail_if, null,
                    v_requests[v_nth].condition_after, v_seen, c_conflicts_max, false));
            if v_conflicts <> '{}' or v_requests[v_nth].fail_if is null then
                v_early := jsonb_set(v_early, array[v_nth::text], to_jsonb(v_conflicts));
                v_suspects := v_suspects || v_nth;
            end if;
        end loop;
        v_suspects := array_cat(v_suspects, counterfoil.may_match_in_group(v_asked, v_events));
    end if;

    ---- 2. The lock ------------------------------------------------------------------

    select b.incarnation::text into v_incarnation from counterfoil.books b
    where b.tenant_id = p_tenant_id for no key update;
    if not found then
        raise exception 'there is no book of tenant %', p_tenant_id
            using errcode = 'no_data_found';
    end if;

    ---- 3. Under the lock ------------------------------------------------------------

    select e.position, e.created_at into head, v_last_time from counterfoil.events e
    where e.tenant_id = p_tenant_id order by e.position desc limit 1;
    head := coalesce(head, 0);
    first_position := head + 1;
    v_now := clock_timestamp();
    clock_ahead_seconds := greatest(extract(epoch from v_last_time - v_now), 0);
    v_now := greatest(v_last_time, v_now);
    created_at := counterfoil.time_text(v_now);
    -- Given back at the commit. Another book's append that holds it at this moment makes us
    -- ring in vain, which costs little; a listener is never missed.
    has_listeners := not pg_try_advisory_xact_lock(c_listeners_lock);

    select r.position into v_rules from counterfoil.rules r where r.tenant_id = p_tenant_id;
    v_rules := coalesce(v_rules, 0);
    v_freezes := exists (select from counterfoil.freezes f where f.tenant_id = p_tenant_id);

    if v_named > 0 then
        select h.requests, h.complete, h.held into v_holding, v_all_hold, v_held
        from counterfoil.holders_in_group(p_tenant_id, v_requests, v_named) as h;
    end if;

    if v_plain and v_all_hold and not v_freezes and v_rules_min = v_rules and v_rules_max = v_rules
    then
        perform counterfoil.write_run(
            p_tenant_id, v_events, v_requests, 0, head, v_now, false, v_held);
        head := head + cardinality(v_events);
        return;
    end if;

    if v_conditional and head > v_seen then
        v_suspects := array_cat(
            v_suspects, counterfoil.may_match(p_tenant_id, v_asked, v_seen, head));
    end if;
    if v_freezes then
        v_frozen := counterfoil.frozen_requests(p_tenant_id, v_events, v_now);
    end if;
    if v_effects then
        v_effect_from := (
            select min(r.nth)
            from unnest(v_requests) with ordinality as r (
                principal, key, content_digest, events_count, events_to, cause_max, fail_if,
                after, incarnation, rules, own, effect, hands_in, nth)
            where r.effect is not null);
    end if;
    select array_agg(r.nth order by r.nth) into v_special
    from (
        select r.*, count(*) over (partition by r.principal, r.key) as bearers
        from unnest(v_requests) with ordinality as r (
            principal, key, content_digest, events_count, events_to, cause_max, fail_if,
            after, incarnation, rules, own, effect, hands_in, nth)
    ) as r
    where r.nth = any (v_suspects)
       or r.nth = any (v_oversized)
       or r.nth = any (v_frozen)
       or r.nth >= v_effect_from
       or r.rules <> v_rules
       or r.hands_in is not null and (
           r.nth <> all (v_holding)
           or exists (select from counterfoil.consumer_calls c
                      where c.tenant_id = p_tenant_id and c.principal = r.principal and c.key = r.key
                      offset 0))
       or r.cause_max > head
       or r.after > head
       or r.incarnation <> v_incarnation
       or r.key is not null and (
           r.bearers > 1
           or exists (select from counterfoil.idempotency_keys k
                      where k.tenant_id = p_tenant_id and k.principal = r.principal and k.key = r.key
                      offset 0));

    foreach v_nth in array coalesce(v_special, '{}') loop
        v_request := v_requests[v_nth];
        v_before := v_request.events_to - v_request.events_count;
        v_status := null;
        v_detail := null;
        v_reason := null;
        -- Those before it are accepted and count: they must be in the tables before these
        -- are asked.
        if v_run_before < v_before then
            perform counterfoil.write_run(
                p_tenant_id, v_events[v_run_before + 1 : v_before],
                v_requests[v_run_from : v_nth - 1], v_run_before, head, v_now, v_keyed,
                counterfoil.held_by(v_held, v_run_from, v_nth - 1));
            head := head + v_before - v_run_before;
        end if;
        v_run_from := v_nth;
        v_run_before := v_before;

        -- The key comes before all else: a success that is asked for again must not be
        -- refused by its own event.
        if v_request.key is not null then
            select k.content_digest, k.first_position, k.created_at into v_stored
            from counterfoil.idempotency_keys k
            where k.tenant_id = p_tenant_id and k.principal = v_request.principal
              and k.key = v_request.key;
            if found then
                if v_stored.content_digest = v_request.content_digest then
                    v_status := 'replayed';
                else
                    v_status := 'key_reused';
                end if;
            elsif v_request.hands_in is not null and exists (
                select from counterfoil.consumer_calls c
                where c.tenant_id = p_tenant_id and c.principal = v_request.principal
                  and c.key = v_request.key)
            then
                v_status := 'key_reused';
            end if;
        end if;

        if v_status is null and not v_request.own then
            if v_freezes then
                v_freeze := counterfoil.freeze_in_the_way(
                    p_tenant_id, v_events[v_before + 1 : v_request.events_to], v_now);
                if v_freeze is not null then
                    v_status := 'frozen';
                    v_detail := array[v_freeze];
                end if;
            end if;
            if v_status is null and v_request.rules <> v_rules then
                v_status := 'rules_changed';
            end if;
        end if;

        if v_status is null and v_nth = any (v_oversized) then
            v_status := 'payload_too_large';
            v_detail := array(
                select e.nth - 1
                from unnest(v_events[v_before + 1 : v_request.events_to]) with ordinality as e (
                    agent_name, event_type, payload, payload_bytes, tags, occurred_at, caused_by,
                    context, salt, digest, principal, request, nth)
                where e.payload_bytes > c_payload_bytes_max order by e.nth limit 1);
        end if;

        -- What holders_in_group has seen holds but for what an effect has changed since.
        if v_status is null and v_request.hands_in is not null
           and (v_nth <> all (v_holding) or v_effect_from < v_nth)
        then
            select f.fault, counterfoil.held_by(v_held, 1, v_nth - 1) || f.held
                   || counterfoil.held_by(v_held, v_nth + 1, cardinality(v_requests))
            into v_status, v_held
            from counterfoil.hand_in_fault(
                p_tenant_id, v_request.hands_in, counterfoil.tokens_of(v_request, v_nth)) as f;
        end if;

        if v_status is null and v_request.condition_after is not null then
            if v_request.condition_incarnation <> v_incarnation then
                v_status := 'book_restored';
            elsif v_request.condition_after > head then
                v_status := 'after_above_head';
            else
                v_conflicts := array(
                    select jsonb_array_elements_text(v_early -> v_nth::text)::bigint);
                if cardinality(v_conflicts) < c_conflicts_max then
                    v_conflicts := v_conflicts || array(
                        select counterfoil.matching_v1(
                            p_tenant_id, v_request.fail_if, null,
                            greatest(v_request.condition_after, v_seen), head,
                            c_conflicts_max - cardinality(v_conflicts), false));
                end if;
                if cardinality(v_conflicts) > 0 then
                    v_status := 'condition_failed';
                    v_detail := v_conflicts;
                end if;
            end if;
        end if;

        if v_status is null and v_request.cause_max > head then
            v_status := 'unknown_cause';
        end if;

        if v_status is null and v_request.effect is not null then
            v_reason := counterfoil.apply_effect(
                p_tenant_id, v_request.effect, head + 1, v_now);
            if v_reason = 'row_busy' then
                v_status := 'row_busy';
                v_reason := null;
            elsif v_reason is not null then
                v_status := 'effect_refused';
            else
                -- Those behind it are judged by what it changed.
                v_freezes := true;
                select coalesce(max(r.position), 0) into v_rules
                from counterfoil.rules r where r.tenant_id = p_tenant_id;
            end if;
        end if;

        if v_status is not null then
            v_answer := jsonb_build_object(
                'request', v_nth - 1, 'status', v_status, 'head', head, 'detail', v_detail);
            if v_reason is not null then
                v_answer := v_answer || jsonb_build_object('reason', v_reason);
            end if;
            if v_request.hands_in is not null and v_status = 'condition_failed' then
                v_answer := v_answer || jsonb_build_object('lease_ends', counterfoil.time_text(
                    counterfoil.lease_ends(
                        p_tenant_id, counterfoil.tokens_of(v_request, v_nth))));
            end if;
            if v_status = 'replayed' then
                v_answer := v_answer || jsonb_build_object(
                    'first_position', v_stored.first_position,
                    'created_at', counterfoil.time_text(v_stored.created_at));
            end if;
            others := coalesce(others, '[]') || v_answer;
            v_run_from := v_nth + 1;
            v_run_before := v_request.events_to;
        end if;
    end loop;

    if v_run_before < cardinality(v_events) then
        perform counterfoil.write_run(
            p_tenant_id, v_events[v_run_before + 1 :], v_requests[v_run_from :], v_run_before,
            head, v_now, v_keyed, counterfoil.held_by(v_held, v_run_from, cardinality(v_requests)));
        head := head + cardinality(v_events) - v_run_before;
    end if;
end
$$;

-- What a request hands in: the tokens, with its place among those of its group.
create function counterfoil.tokens_of(p_request counterfoil.new_request, p_nth integer)
returns counterfoil.token[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return array(
        select row(p_nth, p_request.principal, (t.token ->> 0)::bigint, (t.token ->> 1)::bigint,
                   (t.token ->> 2)::integer)::counterfoil.token
        from jsonb_array_elements(p_request.hands_in -> 'tokens') as t (token));
end
$$;

-- Of what a group holds, what some requests of it do: from one of them to another.
create function counterfoil.held_by(
    p_held counterfoil.held_delivery[], p_from integer, p_to integer
) returns counterfoil.held_delivery[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_held = '{}' then
        return p_held;
    end if;
    return array(
        select h::counterfoil.held_delivery from unnest(p_held) as h
        where h.request between p_from and p_to);
end
$$;

-- Of the requests of a group of appends that hand in what they hold: which have all of it,
-- locked, with those who are next in line. The caller holds the book's head, so nothing is
-- waited for; who is not among these is looked at alone (hand_in_fault). `complete`: they all
-- are among these. `held` is what any of them holds, to be taken out of their hands (hand_in).
create function counterfoil.holders_in_group(
    p_tenant_id integer,
    p_requests counterfoil.new_request[],
    p_named integer,        -- how many deliveries they hand in together
    out requests integer[],
    out complete boolean,
    out held counterfoil.held_delivery[]
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
    v_now timestamptz;
    v_first_ends timestamptz;
    v_in_line boolean;
    v_line record;
    v_busy bigint[] := '{}';
begin
    -- Each is looked up by itself: a join of the two would, without statistics, walk all
    -- deliveries that there are, once for each token. Of a generation that is over, none is held.
    select coalesce(array_agg(row(t.request, t.generation, t.position, d.due_at, d.keys, d.place
                                  )::counterfoil.held_delivery), '{}'),
           count(distinct d.place) = p_named, min(d.due_at), bool_or(d.keys <> '{}')
    into held, complete, v_first_ends, v_in_line
    from (
        select r.nth::integer as request, r.principal, c.generation,
               (t.token ->> 1)::bigint as position, (t.token ->> 2)::integer as attempt
        from unnest(p_requests) with ordinality as r (
            principal, key, content_digest, events_count, events_to, cause_max, fail_if,
            after, incarnation, rules, own, effect, hands_in, nth)
        cross join lateral (
            select c.generation from counterfoil.consumers c
            where c.tenant_id = p_tenant_id and c.name = r.hands_in ->> 'consumer'
            offset 0
        ) as c
        cross join lateral jsonb_array_elements(r.hands_in -> 'tokens') as t (token)
        where (t.token ->> 0)::bigint = c.generation
    ) as t
    cross join lateral (
        select d.due_at, d.keys, d.ctid as place from counterfoil.deliveries d
        where d.tenant_id = p_tenant_id and d.generation = t.generation
          and d.position = t.position and d.state = 'held' and d.attempts = t.attempt
          and d.principal = t.principal
        for update skip locked
    ) as d;
    -- The clock is read once the locks are had.
    v_now := clock_timestamp();
    complete := complete and v_first_ends > v_now;
    if v_in_line then
        for v_line in
            select h.generation, array_agg(h.position) as positions from unnest(held) as h
            where h.keys <> '{}' group by h.generation
        loop
            -- Where one is locked, all of this generation look for themselves.
            if not (select l.complete from counterfoil.lock_next_in_line(
                p_tenant_id, v_line.generation, v_line.positions, false) as l)
            then
                v_busy := v_busy || v_line.generation;
                complete := false;
            end if;
        end loop;
    end if;
    if complete then
        requests := array(
            select r.nth
            from unnest(p_requests) with ordinality as r (
                principal, key, content_digest, events_count, events_to, cause_max, fail_if,
                after, incarnation, rules, own, effect, hands_in, nth)
            where r.hands_in is not null);
    else
        -- Of two that name the same, the later one looks for itself.
        requests := array(
            select h.request
            from (
                select h.request, row_number() over (
                           partition by h.place order by h.request) as bearer
                from unnest(held) as h
                where h.due_at > v_now and h.generation <> all (v_busy)
            ) as h
            group by h.request
            having count(*) = jsonb_array_length(p_requests[h.request].hands_in -> 'tokens')
               and max(h.bearer) = 1);
    end if;
end
$$;

-- Why one request cannot hand in what it names: null, row_busy, lease_lost or
-- consumer_not_found; and what it holds of that, locked. Under the head.
create function counterfoil.hand_in_fault(
    p_tenant_id integer,
    p_hands_in jsonb,
    p_tokens counterfoil.token[],
    out fault text,
    out held counterfoil.held_delivery[]
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
    v_now timestamptz;
    v_line record;
    v_generation bigint;
begin
    held := counterfoil.lock_held(p_tenant_id, p_tokens);
    v_now := clock_timestamp();
    select c.generation into v_generation from counterfoil.consumers c
    where c.tenant_id = p_tenant_id and c.name = p_hands_in ->> 'consumer';
    if not found then
        fault := 'consumer_not_found';
    elsif exists (select from unnest(p_tokens) as t where t.generation <> v_generation)
       or exists (select from unnest(held) as h where h.due_at <= v_now)
    then
        fault := 'lease_lost';
    elsif cardinality(held) < cardinality(p_tokens) then
        -- Somebody has locked it, or it is not held in this attempt any more.
        fault := case when (
            select count(*)
            from unnest(p_tokens) as t
            cross join lateral (
                select d.due_at from counterfoil.deliveries d
                where d.tenant_id = p_tenant_id and d.generation = t.generation
                  and d.position = t.position and d.state = 'held' and d.attempts = t.attempt
                  and d.principal = t.principal
                offset 0
            ) as d
            where d.due_at > v_now
        ) = cardinality(p_tokens) then 'row_busy' else 'lease_lost' end;
    end if;
    if fault is not null then
        return;
    end if;
    for v_line in
        select h.generation, array_agg(h.position) as positions from unnest(held) as h
        where h.keys <> '{}' group by h.generation
    loop
        if not (select l.complete from counterfoil.lock_next_in_line(
            p_tenant_id, v_line.generation, v_line.positions, false) as l)
        then
            fault := 'row_busy';
            return;
        end if;
    end loop;
end
$$;

-- Takes what was handed in out of the hands of those who held it, whose rows are locked, with
-- those who are next in line.
create function counterfoil.hand_in(
    p_tenant_id integer, p_held counterfoil.held_delivery[]
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
    v_done record;
begin
    -- Who stands in no line lets nobody go. What is locked stays where it is.
    delete from counterfoil.deliveries d
    where d.ctid = any (array(
        select h.place from unnest(p_held) as h where h.keys = '{}'));
    for v_done in
        select h.generation, array_agg(h.position) as positions from unnest(p_held) as h
        where h.keys <> '{}'
        group by h.generation
    loop
        perform counterfoil.finish_deliveries(
            p_tenant_id, v_done.generation, v_done.positions, l.next_positions)
        from counterfoil.lock_next_in_line(
            p_tenant_id, v_done.generation, v_done.positions, false) as l;
    end loop;
end
$$;

-- Sets deliveries aside, one of the request's events for each, in their order: what a holder
-- holds, or (without a principal) what is exhausted.
create or replace function counterfoil.set_aside(
    p_tenant_id integer, p_effect jsonb, p_position bigint, p_now timestamptz
) returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
    v_consumer counterfoil.consumers;
    v_tokens counterfoil.token[] := array(
        select row(t.nth, p_effect ->> 'principal', (t.token ->> 0)::bigint,
                   (t.token ->> 1)::bigint, (t.token ->> 2)::integer)::counterfoil.token
        from jsonb_array_elements(p_effect -> 'tokens') with ordinality as t (token, nth)
        order by t.nth);
    v_positions bigint[] := array(select t.position from unnest(v_tokens) as t);
    v_locked bigint[];
    v_leaving bigint[];
    v_next record;
    v_fault text;
begin
    select * into v_consumer from counterfoil.consumers c
    where c.tenant_id = p_tenant_id and c.name = p_effect ->> 'consumer';
    if not found then
        return 'consumer_not_found';
    end if;
    if cardinality(v_positions) > (select count(distinct t.position) from unnest(v_tokens) as t) then
        return 'lease_lost';
    elsif p_effect ->> 'principal' is not null then
        v_fault := (
            select f.fault from counterfoil.hand_in_fault(p_tenant_id, p_effect, v_tokens) as f);
        if v_fault is not null then
            return v_fault;
        end if;
    else
        v_locked := array(
            select d.position
            from unnest(v_tokens) as t
            cross join lateral (
                select d.position from counterfoil.deliveries d
                where d.tenant_id = p_tenant_id and d.generation = t.generation
                  and d.position = t.position and d.generation = v_consumer.generation
                  and d.attempts = t.attempt and d.state = 'exhausted'
                for update skip locked
            ) as d);
        if cardinality(v_locked) < cardinality(v_positions) then
            return case when (
                select count(*) from unnest(v_tokens) as t
                join counterfoil.deliveries d
                    on d.tenant_id = p_tenant_id and d.generation = t.generation
                    and d.position = t.position
                where d.generation = v_consumer.generation
                  and d.state = 'exhausted' and d.attempts = t.attempt
            ) = cardinality(v_positions) then 'row_busy' else 'unchanged' end;
        end if;
    end if;
    select * into v_next from counterfoil.lock_next_in_line(
        p_tenant_id, v_consumer.generation, v_positions, false);
    if not v_next.complete then
        return 'row_busy';
    end if;

    insert into counterfoil.dead_letters (
        tenant_id, consumer, position, generation, attempts, history, reason, said_by,
        set_aside_at, set_aside_by, holds_key)
    select p_tenant_id, v_consumer.name, d.position, d.generation, d.attempts,
           case when d.state = 'held'
                then counterfoil.ended_attempt(d, p_now, p_effect ->> 'reason')
                else d.history end,
           p_effect ->> 'reason', p_position + t.request - 1, p_now, p_effect ->> 'by',
           v_consumer.dead_letters = 'hold' and d.keys <> '{}'
    from unnest(v_tokens) as t
    join counterfoil.deliveries d
        on d.tenant_id = p_tenant_id and d.generation = t.generation and d.position = t.position;
    v_leaving := array(
        select l.position from counterfoil.dead_letters l
        where l.ctid = any (counterfoil.rows_of_dead_letters(
            p_tenant_id, v_consumer.name, v_positions)) and not l.holds_key);
    update counterfoil.deliveries d
    set state = 'set_aside', due_at = null, holder = null, principal = null, claimed_at = null
    where d.ctid = any (counterfoil.rows_of_deliveries(
        p_tenant_id, v_consumer.generation, v_positions)) and d.position <> all (v_leaving);
    perform counterfoil.finish_deliveries(
        p_tenant_id, v_consumer.generation, v_leaving, v_next.next_positions);
    return null;
end
$$;

revoke all on all functions in schema counterfoil from public;

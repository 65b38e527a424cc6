-- Who may write what: keys, schemas, freezes, settings; each tenant by itself.
--
-- The processes of the release before cannot work on it: they tell no transaction whose it
-- is. Stop them, migrate, start the new ones.

alter type counterfoil.new_request
    add attribute rules bigint,
    add attribute own boolean,
    add attribute effect jsonb;

-- The door without a brake goes with it: whoever could still call it would write what is frozen.
-- squawk-ignore ban-drop-function
drop function counterfoil.append_v2(integer, jsonb, integer);

-- The append: the one door through which anything enters a book.
--
-- Theory of operation
-- -------------------
-- A group is a list of requests of one tenant; each is an append of one or more events
-- with, perhaps, an idempotency key and a condition. The group behaves as if its
-- requests had been run one after another, in their order, each in a transaction of its
-- own; they share a commit, that is all. A request that is refused is refused alone.
--
--   1. Before the lock, what is dear and needs no order: documents are taken apart,
--      digests computed, and each condition is checked up to the head seen now.
--   2. The lock, a statement of its own. Whoever waits here sees, in the statements that
--      follow, all that was committed during the wait: in a VOLATILE function under READ
--      COMMITTED each statement takes its own snapshot. (Lock and check in one statement
--      would check through the snapshot from before the wait.)
--   3. Under the lock: where the book stands, and which requests need a look of their
--      own. The others are accepted as they come, many in one statement.
--   4. The commit, which the caller waits for, releases the lock only after the events
--      are flushed and visible. So the order of positions is the order of commits: who
--      sees n sees all before n, and a reader needs nothing but `position > cursor`.
--
-- Which requests need a look of their own? One whose answer could be anything but
-- "stored", as far as a few set-based statements can tell for the whole group: its key is
-- in the table or twice in the group, its condition may be violated, its causes may not
-- exist yet, a payload is too large. Those statements may suspect too much, never too
-- little; what they suspect is judged exactly, request by request, in the order of the
-- group. A suspected condition is held against matching_v1, the one definition of what
-- matches.
--
-- What may be written is settled in the same order as what is written (5_rules.sql):
--
--   * A freeze holds from its event's position on. It is asked for under the lock.
--   * Schemas cannot be checked in here. So each request carries the position of the last
--     change of rules under which its process judged it. Where that is not the last change
--     any more, the answer is rules_changed, and the process judges it anew.
--   * The service's own requests (`own`) may carry an effect: a key made, a type registered,
--     a tag frozen. It is applied at the position of the request's event, and every request
--     behind it in the group is judged by what it changed.
--
-- The row in books is locked and never updated: see 1_tables.sql. There are no EXCEPTION
-- blocks: each would burn a transaction id, and one that fails lets go of the lock.
--
-- Whatever this function cannot answer for a single request, it raises for the group,
-- and nothing of the group is stored; the caller then runs the group in halves.

create function counterfoil.append_v3(
    p_tenant_id integer,
    -- [{"operation", "principal", "key"?, "traceparent"?, "cause_max"?,
    --   "events": [{"agent_name", "event_type", "payload", "tags", "occurred_at"?,
    --               "caused_by"?, "context"?}],
    --   "condition": {"fail_if": query, "after"?, "incarnation"?}?,
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
    --              book_restored, after_above_head, condition_failed, unknown_cause or
    --              effect_refused,
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
        raise exception 'append_v3 must run at READ COMMITTED: what is committed while it waits must be seen'
            using errcode = 'invalid_transaction_state';
    end if;
    -- Two ways lead here, the caller's setting and the caller's argument, and both must name
    -- the same book: row-level security goes by the first.
    if counterfoil.current_tenant() is distinct from p_tenant_id then
        raise exception 'append_v3 was called for tenant % in a transaction that is not that tenant''s',
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
                   r.request -> 'effect'
               )::counterfoil.new_request order by r.nth),
           bool_or(r.request ? 'key'), bool_or(r.request ? 'condition'),
           not bool_or(r.request ?| array['key', 'condition', 'cause_max', 'own']),
           min(coalesce((r.request ->> 'rules')::bigint, 0)),
           max(coalesce((r.request ->> 'rules')::bigint, 0)),
           -- Counting on with a null would answer `stored` to a group that was not written.
           bool_and(coalesce(r.events_count > 0, false))
    into v_requests, v_keyed, v_conditional, v_plain, v_rules_min, v_rules_max, v_complete
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
            after, incarnation, rules, own, effect, nth)
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

    if v_plain and not v_freezes and v_rules_min = v_rules and v_rules_max = v_rules then
        perform counterfoil.write_run(
            p_tenant_id, v_events, v_requests, 0, head, v_now, false);
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
    v_effect_from := (
        select min(r.nth)
        from unnest(v_requests) with ordinality as r (
            principal, key, content_digest, events_count, events_to, cause_max, fail_if,
            after, incarnation, rules, own, effect, nth)
        where r.effect is not null);
    select array_agg(r.nth order by r.nth) into v_special
    from (
        select r.*, count(*) over (partition by r.principal, r.key) as bearers
        from unnest(v_requests) with ordinality as r (
            principal, key, content_digest, events_count, events_to, cause_max, fail_if,
            after, incarnation, rules, own, effect, nth)
    ) as r
    where r.nth = any (v_suspects)
       or r.nth = any (v_oversized)
       or r.nth = any (v_frozen)
       or r.nth >= v_effect_from
       or r.rules <> v_rules
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
                v_requests[v_run_from : v_nth - 1], v_run_before, head, v_now, v_keyed);
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
            if v_reason is not null then
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
            head, v_now, v_keyed);
        head := head + cardinality(v_events) - v_run_before;
    end if;
end
$$;

-- Who may write what: keys, the schemas of event types, what is frozen, and what a tenant
-- has settled for itself.
--
-- Each row here comes from an event in the tenant's own book (`position`), written by the
-- service under its own name: the row is that event's effect (7_effects.sql), made in the
-- same step. So the book tells who was allowed what, and when; these tables only answer it
-- quickly.

-- What opens the service to whom. A row holds no secret: the digest is that of 256 random
-- bits, which nobody can guess from it.
create table counterfoil.keys (
    tenant_id integer not null,
    key_id text collate "C" not null,
    position bigint not null,
    kind text collate "C" not null,
    -- the principal's: `kind:name` owns idempotency keys and signs events
    name text collate "C" not null,
    mode text collate "C" not null,
    scopes text[] collate "C" not null,
    digest bytea not null,
    created_at timestamptz not null,
    created_by text collate "C" not null,
    expires_at timestamptz,
    revoked_at timestamptz,
    rate_per_second integer,
    rate_burst integer,
    -- the key that this one took the place of
    replaces text collate "C",
    constraint keys_pkey primary key (tenant_id, key_id),
    -- A key is looked up before it is known whose it is.
    constraint key_ids_are_unique unique (key_id),
    constraint kind_is_known check (kind in ('agent', 'person', 'service', 'auditor', 'admin')),
    constraint mode_is_known check (mode in ('live', 'test')),
    constraint digest_is_sha256 check (octet_length(digest) = 32),
    constraint rate_and_burst_go_together check ((rate_per_second is null) = (rate_burst is null))
);

create index keys_by_position on counterfoil.keys (tenant_id, position);

-- When each key was used last, to within a minute. Beside the keys, which stay as they are.
create table counterfoil.key_uses (
    tenant_id integer not null,
    key_id text collate "C" not null,
    last_used_at timestamptz not null,
    constraint key_uses_pkey primary key (tenant_id, key_id)
);

-- One row a tenant that has registered or settled anything: the position of the event that
-- did so last. An append that was judged under an older one is judged anew.
create table counterfoil.rules (
    tenant_id integer not null,
    position bigint not null,
    unregistered_types text collate "C" not null default 'accepted',
    constraint rules_pkey primary key (tenant_id),
    constraint unregistered_types_is_known check (unregistered_types in ('accepted', 'refused'))
);

-- The schemas of event types. The highest version is the active one, from its position on;
-- so which one a payload stands under can be told for every event that there is.
create table counterfoil.event_types (
    tenant_id integer not null,
    event_type text collate "C" not null,
    version integer not null,
    position bigint not null,
    schema jsonb not null,
    -- whether it was said that it may refuse what the version before accepted, and why
    narrowing boolean not null,
    reason text,
    registered_at timestamptz not null,
    registered_by text collate "C" not null,
    constraint event_types_pkey primary key (tenant_id, event_type, version),
    constraint version_is_positive check (version > 0),
    constraint narrowing_has_a_reason check (not narrowing or reason is not null)
);

create trigger event_types_stay before update or delete on counterfoil.event_types
    for each row execute function counterfoil.refuse_change();
create trigger event_types_are_not_truncated before truncate on counterfoil.event_types
    for each statement execute function counterfoil.refuse_change();

-- What is frozen now. A freeze that has ended, or was thawed, is in the book only. Two
-- people may freeze the same thing for two reasons: each is thawed by itself.
create table counterfoil.freezes (
    tenant_id integer not null,
    position bigint not null,
    kind text collate "C" not null,
    subject text collate "C" not null,      -- the agent, the tag; of a whole book: ''
    reason text not null,
    until timestamptz,
    frozen_at timestamptz not null,
    frozen_by text collate "C" not null,
    constraint freezes_pkey primary key (tenant_id, position),
    constraint freeze_kind_is_known check (kind in ('agent', 'tag', 'book')),
    constraint book_has_no_subject check ((kind = 'book') = (subject = ''))
);

create index freezes_by_subject on counterfoil.freezes (tenant_id, kind, subject, position);

-- Which freezes hold some of these events, the first of them: null where none does. One
-- probe of an index for each agent and tag.
create function counterfoil.freeze_in_the_way(
    p_tenant_id integer, p_events counterfoil.new_event[], p_now timestamptz
) returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_bitmapscan = off
set enable_seqscan = off
set jit = off
as $$
begin
    return (select min(f.position)
    from (
        select 'book' as kind, '' as subject
        union all
        select distinct 'agent', e.agent_name from unnest(p_events) as e
        union all
        select distinct 'tag', t.tag
        from unnest(p_events) as e cross join lateral unnest(e.tags) as t (tag)
    ) as written
    cross join lateral (
        select f.position from counterfoil.freezes f
        where f.tenant_id = p_tenant_id and f.kind = written.kind and f.subject = written.subject
          and (f.until is null or f.until > p_now)
        order by f.position limit 1
    ) as f);
end
$$;

-- Which requests of a group write what is frozen, in the same way: once for all of them.
create function counterfoil.frozen_requests(
    p_tenant_id integer, p_events counterfoil.new_event[], p_now timestamptz
) returns integer[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_bitmapscan = off
set enable_seqscan = off
set jit = off
as $$
begin
    return (select array_agg(distinct request)
    from (
        select 'book' as kind, '' as subject, array_agg(distinct e.request) as requests
        from unnest(p_events) as e
        union all
        select 'agent', e.agent_name, array_agg(distinct e.request)
        from unnest(p_events) as e group by e.agent_name
        union all
        select 'tag', t.tag, array_agg(distinct e.request)
        from unnest(p_events) as e cross join lateral unnest(e.tags) as t (tag) group by t.tag
    ) as written
    cross join lateral unnest(written.requests) as request
    where exists (
        select from counterfoil.freezes f
        where f.tenant_id = p_tenant_id and f.kind = written.kind and f.subject = written.subject
          and (f.until is null or f.until > p_now)
        offset 0));
end
$$;

-- What the service's own events do: each is an append like any other, and the row that it
-- makes or changes is written in the same step, at its position, under the same lock.
--
-- So there is one order for what is written and for what may be written. Nothing slips in
-- behind a freeze; every payload stands under the schema that was active at its position;
-- an idempotency key makes a key once. Only append_v3 calls these.

-- Writes a key's row. The event's position is the key's.
create function counterfoil.add_key(
    p_tenant_id integer, p_key jsonb, p_position bigint, p_now timestamptz
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into counterfoil.keys (
        tenant_id, key_id, position, kind, name, mode, scopes, digest, created_at, created_by,
        expires_at, rate_per_second, rate_burst, replaces)
    select p_tenant_id, k.key_id, p_position, k.kind, k.name, k.mode, k.scopes,
           decode(k.digest, 'hex'), p_now, k.created_by, k.expires_at, k.rate_per_second,
           k.rate_burst, k.replaces
    from jsonb_to_record(p_key) as k (
        key_id text, kind text, name text, mode text, scopes text[], digest text,
        created_by text, expires_at timestamptz, rate_per_second integer, rate_burst integer,
        replaces text);
end
$$;

-- How many keys of a tenant open anything.
create function counterfoil.keys_in_force(p_tenant_id integer, p_now timestamptz) returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (select count(*) from counterfoil.keys k
            where k.tenant_id = p_tenant_id and k.revoked_at is null
              and (k.expires_at is null or k.expires_at > p_now));
end
$$;

-- Opens another tenant's book, with the event that made its first key as number 1.
create function counterfoil.open_book(p_effect jsonb, p_now timestamptz) returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    c_tenants_max constant integer := 10000;
    v_opener text := current_setting('counterfoil.tenant_id');
    v_tenant_id integer;
    v_event jsonb := p_effect -> 'event';
    v_payload jsonb := v_event -> 'payload';
    v_salt bytea := uuid_send(gen_random_uuid());
begin
    perform set_config('counterfoil.books', 'all', true);
    if exists (select from counterfoil.books b where b.name = p_effect ->> 'name') then
        return 'tenant_exists';
    end if;
    select max(b.tenant_id) + 1 into v_tenant_id from counterfoil.books b;
    if v_tenant_id > c_tenants_max then
        return 'too_many';
    end if;
    perform set_config('counterfoil.books', '', true);
    perform set_config('counterfoil.tenant_id', v_tenant_id::text, true);
    insert into counterfoil.books (tenant_id, name, created_at)
    values (v_tenant_id, p_effect ->> 'name', p_now);
    perform counterfoil.write_run(
        v_tenant_id,
        array[row(
            v_event ->> 'agent_name', v_event ->> 'event_type', v_payload,
            octet_length(v_payload::text),
            array(select jsonb_array_elements_text(v_event -> 'tags')), null, '{}', null, v_salt,
            sha256(v_salt || convert_to(v_payload::text, 'UTF8')), v_event ->> 'principal', 1
        )::counterfoil.new_event],
        null, 0, 0, p_now, false);
    perform counterfoil.add_key(v_tenant_id, p_effect -> 'key', 1, p_now);
    perform set_config('counterfoil.tenant_id', v_opener, true);
    return null;
end
$$;

-- Applies the effect of one of the service's own events. Null: done. Otherwise why it cannot
-- be, in one word, and then nothing was changed.
create function counterfoil.apply_effect(
    p_tenant_id integer,
    p_effect jsonb,
    p_position bigint,      -- the event's
    p_now timestamptz
) returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    -- Each has its reason in core/limits.py (KEYS_MAX, EVENT_TYPES_MAX, FREEZES_MAX).
    c_keys_max constant integer := 10000;
    c_event_types_max constant integer := 1000;
    c_freezes_max constant integer := 10000;
    v_key counterfoil.keys;
    v_version integer;
begin
    case p_effect ->> 'effect'

    when 'none' then
        null;

    when 'create_key' then
        if counterfoil.keys_in_force(p_tenant_id, p_now) >= c_keys_max then
            return 'too_many';
        end if;
        perform counterfoil.add_key(p_tenant_id, p_effect -> 'key', p_position, p_now);

    when 'rotate_key' then
        select * into v_key from counterfoil.keys k
        where k.tenant_id = p_tenant_id and k.key_id = p_effect ->> 'key_id';
        if not found then
            return 'key_not_found';
        elsif v_key.revoked_at is not null or v_key.expires_at <= p_now then
            return 'key_not_active';
        elsif counterfoil.keys_in_force(p_tenant_id, p_now) >= c_keys_max then
            return 'too_many';
        end if;
        perform counterfoil.add_key(p_tenant_id, p_effect -> 'key', p_position, p_now);
        update counterfoil.keys k
        set expires_at = least(
            k.expires_at, p_now + (p_effect ->> 'overlap_seconds')::integer * interval '1 second')
        where k.tenant_id = p_tenant_id and k.key_id = v_key.key_id;

    when 'revoke_key' then
        update counterfoil.keys k set revoked_at = p_now
        where k.tenant_id = p_tenant_id and k.key_id = p_effect ->> 'key_id'
          and k.revoked_at is null;
        if not found then
            return case when exists (
                select from counterfoil.keys k
                where k.tenant_id = p_tenant_id and k.key_id = p_effect ->> 'key_id'
            ) then 'unchanged' else 'key_not_found' end;
        end if;

    when 'register_event_type' then
        select max(t.version) into v_version from counterfoil.event_types t
        where t.tenant_id = p_tenant_id and t.event_type = p_effect ->> 'event_type';
        -- It was compared with the version before it, and with no other.
        if coalesce(v_version, 0) + 1 <> (p_effect ->> 'version')::integer then
            return 'version_taken';
        elsif v_version is null and (
            select count(distinct t.event_type) from counterfoil.event_types t
            where t.tenant_id = p_tenant_id) >= c_event_types_max
        then
            return 'too_many';
        end if;
        insert into counterfoil.event_types (
            tenant_id, event_type, version, position, schema, narrowing, reason, registered_at,
            registered_by)
        values (
            p_tenant_id, p_effect ->> 'event_type', (p_effect ->> 'version')::integer, p_position,
            p_effect -> 'schema', (p_effect ->> 'narrowing')::boolean, p_effect ->> 'reason',
            p_now, p_effect ->> 'by');
        insert into counterfoil.rules as r (tenant_id, position) values (p_tenant_id, p_position)
        on conflict on constraint rules_pkey do update set position = excluded.position;

    when 'change_settings' then
        insert into counterfoil.rules as r (tenant_id, position, unregistered_types)
        values (p_tenant_id, p_position, p_effect ->> 'unregistered_types')
        on conflict on constraint rules_pkey do update
        set position = excluded.position, unregistered_types = excluded.unregistered_types
        where r.unregistered_types <> excluded.unregistered_types;
        if not found then
            return 'unchanged';
        end if;

    when 'freeze' then
        -- Those that have ended hold nothing any more, and cost every append a look.
        delete from counterfoil.freezes f where f.tenant_id = p_tenant_id and f.until <= p_now;
        if (p_effect ->> 'until')::timestamptz <= p_now then
            return 'ends_in_the_past';
        elsif (select count(*) from counterfoil.freezes f
               where f.tenant_id = p_tenant_id) >= c_freezes_max then
            return 'too_many';
        end if;
        insert into counterfoil.freezes (
            tenant_id, position, kind, subject, reason, until, frozen_at, frozen_by)
        values (
            p_tenant_id, p_position, p_effect ->> 'kind', p_effect ->> 'subject',
            p_effect ->> 'reason', (p_effect ->> 'until')::timestamptz, p_now, p_effect ->> 'by');

    when 'thaw' then
        delete from counterfoil.freezes f
        where f.tenant_id = p_tenant_id and f.position = (p_effect ->> 'id')::bigint
          and (f.until is null or f.until > p_now);
        if not found then
            return 'freeze_not_found';
        end if;

    when 'open_book' then
        return counterfoil.open_book(p_effect, p_now);

    end case;
    return null;
end
$$;

-- Each tenant by itself: row-level security, forced on the owner too.
--
-- Every statement of the service names its tenant twice: in its own conditions, and in a
-- setting of its transaction, by which these policies go. So a condition that was forgotten
-- finds nothing of another tenant's, and a transaction that was never told whose it is finds
-- nothing at all. It is a net below the service's code, not a wall against whoever holds
-- its login: that login chooses the setting.
--
-- A superuser and a role with BYPASSRLS see everything, for backups (pg_dump needs one).

-- The tenant of this transaction; null where it was never told. A setting that has ended
-- reads as an empty string in the same session, not as null.
create function counterfoil.current_tenant() returns integer
language sql stable parallel safe
return nullif(current_setting('counterfoil.tenant_id', true), '')::integer;

do $$
declare
    v_table text;
begin
    foreach v_table in array array[
        'events', 'event_tags', 'idempotency_keys', 'key_uses', 'rules', 'event_types', 'freezes'
    ] loop
        execute format('alter table counterfoil.%I enable row level security', v_table);
        execute format('alter table counterfoil.%I force row level security', v_table);
        execute format(
            'create policy own_tenant_only on counterfoil.%I using (tenant_id = counterfoil.current_tenant())',
            v_table);
    end loop;
end
$$;

-- The list of books is the operator's: asked for by name, it is seen whole (`counterfoil
-- recover`, and the operator's list of tenants).
alter table counterfoil.books enable row level security;
alter table counterfoil.books force row level security;
create policy own_tenant_only on counterfoil.books using (
    tenant_id = counterfoil.current_tenant()
    or current_setting('counterfoil.books', true) = 'all');

-- Whoever presents a key's id may learn what it is worth: only after that is it known whose
-- key it is. Written are only the tenant's own.
alter table counterfoil.keys enable row level security;
alter table counterfoil.keys force row level security;
create policy own_tenant_only on counterfoil.keys using (
    tenant_id = counterfoil.current_tenant());
create policy presented_keys on counterfoil.keys for select using (
    key_id = any (string_to_array(current_setting('counterfoil.presented_keys', true), ',')));

-- What the keys with these ids are worth by the database's clock, their digests with it: for
-- the one place that compares them. Ids that there are not are left out.
create function counterfoil.presented_keys_v1(p_key_ids text[])
returns table (
    key_id text, tenant_id integer, tenant_name text, kind text, name text, mode text,
    scopes text[], digest text, expires_at text, rate_per_second integer, rate_burst integer,
    state text)
language plpgsql volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform set_config('counterfoil.presented_keys', array_to_string(p_key_ids, ','), true);
    perform set_config('counterfoil.books', 'all', true);
    return query
        select k.key_id, k.tenant_id, b.name, k.kind, k.name, k.mode, k.scopes,
               encode(k.digest, 'hex'), counterfoil.time_text(k.expires_at), k.rate_per_second,
               k.rate_burst,
               case when k.revoked_at is not null then 'revoked'
                    when k.expires_at <= clock_timestamp() then 'expired'
                    else 'active' end
        from counterfoil.keys k join counterfoil.books b on b.tenant_id = k.tenant_id
        where k.key_id = any (p_key_ids);
    perform set_config('counterfoil.presented_keys', '', true);
    perform set_config('counterfoil.books', '', true);
end
$$;

-- A page of all tenants, or the one of this name: for the operator, whose calls alone lead here.
create function counterfoil.tenants_v1(p_after integer, p_limit integer, p_name text)
returns table (tenant_id integer, name text, created_at timestamptz)
language plpgsql volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform set_config('counterfoil.books', 'all', true);
    return query
        select b.tenant_id, b.name, b.created_at from counterfoil.books b
        where b.tenant_id > p_after and (p_name is null or b.name = p_name)
        order by b.tenant_id limit p_limit;
    perform set_config('counterfoil.books', '', true);
end
$$;

-- Notes when keys of this transaction's tenant were used: {key_id: time, …}. Never back in
-- time, since several processes note the same keys.
create function counterfoil.note_key_uses_v1(p_uses jsonb) returns void
language plpgsql volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into counterfoil.key_uses as u (tenant_id, key_id, last_used_at)
    select k.tenant_id, k.key_id, used.value::timestamptz
    from jsonb_each_text(p_uses) as used
    join counterfoil.keys k
        on k.tenant_id = counterfoil.current_tenant() and k.key_id = used.key
    order by k.key_id
    on conflict on constraint key_uses_pkey do update
    set last_used_at = greatest(u.last_used_at, excluded.last_used_at);
end
$$;

-- Who may do what with it.

revoke all on all tables in schema counterfoil from public;
revoke all on all functions in schema counterfoil from public;

grant select on counterfoil.key_uses, counterfoil.rules, counterfoil.event_types,
    counterfoil.freezes to counterfoil_service;
-- All of a key but its digest.
grant select (
    tenant_id, key_id, position, kind, name, mode, scopes, created_at, created_by, expires_at,
    revoked_at, rate_per_second, rate_burst, replaces) on counterfoil.keys to counterfoil_service;
grant execute on function
    counterfoil.append_v3(integer, jsonb, integer),
    counterfoil.current_tenant(),
    counterfoil.presented_keys_v1(text[]),
    counterfoil.tenants_v1(integer, integer, text),
    counterfoil.note_key_uses_v1(jsonb)
    to counterfoil_service;
-- A policy is asked with the rights of whoever reads.
grant execute on function counterfoil.current_tenant() to counterfoil_eraser;

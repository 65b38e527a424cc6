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
--   3. Under the lock: where the book stands; then, request by request: was its key
--      used before? does its condition hold for what came since step 1? do its causes
--      exist? An accepted request gets the next positions.
--   4. The commit, which the caller waits for, releases the lock only after the events
--      are flushed and visible. So the order of positions is the order of commits: who
--      sees n sees all before n, and a reader needs nothing but `position > cursor`.
--
-- The row in books is locked and never updated: see 1_tables.sql. There are no EXCEPTION
-- blocks: each would burn a transaction id, and one that fails lets go of the lock.
--
-- Whatever this function cannot answer for a single request, it raises for the group,
-- and nothing of the group is stored; the caller then runs the group in halves.

-- One event, taken apart and digested, before it has a position.
create type counterfoil.new_event as (
    agent_name text,
    event_type text,
    payload jsonb,
    payload_bytes integer,
    tags text[],
    occurred_at timestamptz,
    caused_by bigint[],
    context jsonb,
    salt bytea,
    digest bytea,
    principal text
);

-- The answer to one request of a group, in the order of the requests.
create type counterfoil.append_result as (
    -- stored, replayed, key_reused, payload_too_large, book_restored, after_above_head,
    -- condition_failed or unknown_cause
    status text,
    first_position bigint,
    event_count integer,
    created_at text,
    -- the book's last position as this request saw it (stored: its own last event)
    head bigint,
    -- condition_failed: the first positions in the way; payload_too_large: the event's index
    detail bigint[],
    -- how far the book's last time lies ahead of the server's clock
    clock_ahead_seconds double precision
);

-- Writes events at consecutive positions. Only append_v1 may call it, under the lock.
create function counterfoil.write_events(
    p_tenant_id integer,
    p_events counterfoil.new_event[],
    p_head bigint,
    p_created_at timestamptz
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
        context, salt, digest, principal, nth);

    insert into counterfoil.event_tags (tenant_id, tag, position)
    select p_tenant_id, t.tag, p_head + e.nth
    from unnest(p_events) with ordinality as e (
        agent_name, event_type, payload, payload_bytes, tags, occurred_at, caused_by,
        context, salt, digest, principal, nth)
    cross join lateral unnest(e.tags) as t (tag);
end
$$;

create function counterfoil.append_v1(
    p_tenant_id integer,
    -- [{"operation", "principal", "key"?, "traceparent"?, "cause_max"?,
    --   "events": [{"agent_name", "event_type", "payload", "tags", "occurred_at"?,
    --               "caused_by"?, "context"?}],
    --   "condition": {"fail_if": query, "after"?, "incarnation"?}?}, …]
    p_requests jsonb,
    p_lock_wait_milliseconds integer
) returns setof counterfoil.append_result
language plpgsql volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    -- What one payload may measure as PostgreSQL writes it out (PAYLOAD_BYTES_MAX).
    c_payload_bytes_max constant integer := 262144;
    -- How many events in the way a refusal shows (CONFLICTS_MAX).
    c_conflicts_max constant integer := 20;

    v_requests jsonb[];
    v_request jsonb;
    v_condition jsonb;
    v_events counterfoil.new_event[];   -- of all requests, in their order
    v_counts integer[];                 -- events of each request
    v_digests bytea[];                  -- content of each keyed request
    v_results counterfoil.append_result[];
    v_early bigint[];                   -- conflicts that were found before the lock
    v_conflicts bigint[];
    v_seen bigint := 0;                 -- the head before the lock
    v_head bigint;                      -- the last position given out so far
    v_last_time timestamptz;
    v_now timestamptz;
    v_ahead double precision;
    v_incarnation text;
    v_after bigint;
    v_stored record;
    v_first integer := 1;               -- in v_events: this request's first event
    v_pending integer := 1;             -- in v_events: the first accepted, unwritten event
    v_oversize bigint;
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'append_v1 must run at READ COMMITTED: what is committed while it waits must be seen'
            using errcode = 'invalid_transaction_state';
    end if;
    -- An acknowledged event is a flushed event, whatever the role or the database say.
    if current_setting('synchronous_commit') not in ('on', 'remote_apply') then
        perform set_config('synchronous_commit', 'on', true);
    end if;
    perform set_config('lock_timeout', p_lock_wait_milliseconds::text, true);

    ---- 1. Before the lock -----------------------------------------------------------

    v_requests := array(select jsonb_array_elements(p_requests));

    -- The innermost subquery draws a salt for each row; `offset 0` keeps it from being
    -- flattened, where the salt of the digest and the salt that is stored would differ. It
    -- leaves the request itself behind, or each event would carry all of its batch along.
    select array_agg(
        row(s.event ->> 'agent_name', s.event ->> 'event_type', s.event -> 'payload',
            octet_length(s.payload_text),
            array(select jsonb_array_elements_text(s.event -> 'tags')),
            (s.event ->> 'occurred_at')::timestamptz,
            array(select jsonb_array_elements_text(s.event -> 'caused_by')::bigint),
            case when s.traceparent is not null
                 then jsonb_build_object('traceparent', s.traceparent)
                      || coalesce(s.event -> 'context', '{}')
                 else s.event -> 'context' end,
            s.salt,
            sha256(s.salt || convert_to(s.payload_text, 'UTF8')),
            s.principal
        )::counterfoil.new_event
        order by s.nth_request, s.nth_event)
    into v_events
    from (
        select r.request -> 'traceparent' as traceparent, r.request ->> 'principal' as principal,
               r.nth_request, e.event, e.nth_event,
               (e.event -> 'payload')::text as payload_text,
               uuid_send(gen_random_uuid()) as salt
        from unnest(v_requests) with ordinality as r (request, nth_request)
        cross join lateral jsonb_array_elements(r.request -> 'events')
            with ordinality as e (event, nth_event)
        offset 0
    ) as s;

    select array_agg(jsonb_array_length(r.request -> 'events') order by r.nth),
           -- What must be equal for two requests to be the same: the operation, the
           -- events and the condition. Not what the transport adds to each try.
           array_agg(
               case when r.request ? 'key' then
                   sha256(convert_to((r.request - array['principal', 'key', 'traceparent'])::text, 'UTF8'))
               end order by r.nth)
    into v_counts, v_digests
    from unnest(v_requests) with ordinality as r (request, nth);
    -- Counting on with a null would answer `stored` to a group that was not written.
    if array_position(v_counts, null) is not null or 0 = any (v_counts) then
        raise exception 'every request appends at least one event'
            using errcode = 'invalid_parameter_value';
    end if;

    if p_requests @? '$[*].condition' then
        select e.position into v_seen from counterfoil.events e
        where e.tenant_id = p_tenant_id order by e.position desc limit 1;
        v_seen := coalesce(v_seen, 0);
        for i in 1 .. cardinality(v_requests) loop
            v_condition := v_requests[i] -> 'condition';
            v_after := coalesce((v_condition ->> 'after')::bigint, 0);
            if v_condition is not null and v_after < v_seen then
                v_results[i].detail := array(
                    select counterfoil.matching_v1(
                        p_tenant_id, v_condition -> 'fail_if', null, v_after, v_seen,
                        c_conflicts_max, false));
            end if;
        end loop;
    end if;

    ---- 2. The lock ------------------------------------------------------------------

    select b.incarnation::text into v_incarnation from counterfoil.books b
    where b.tenant_id = p_tenant_id for no key update;
    if not found then
        raise exception 'there is no book of tenant %', p_tenant_id
            using errcode = 'no_data_found';
    end if;

    ---- 3. Under the lock ------------------------------------------------------------

    select e.position, e.created_at into v_head, v_last_time from counterfoil.events e
    where e.tenant_id = p_tenant_id order by e.position desc limit 1;
    v_head := coalesce(v_head, 0);
    v_now := clock_timestamp();
    v_ahead := greatest(extract(epoch from v_last_time - v_now), 0);
    v_now := greatest(v_last_time, v_now);

    for i in 1 .. cardinality(v_requests) loop
        v_request := v_requests[i];
        v_condition := v_request -> 'condition';
        v_early := coalesce(v_results[i].detail, '{}');
        v_results[i] := row(null, null, v_counts[i], null, v_head, null, v_ahead);

        -- The key comes before all else: a success that is asked for again must not be
        -- refused by its own event.
        if v_request ? 'key' then
            select k.content_digest, k.first_position, k.created_at into v_stored
            from counterfoil.idempotency_keys k
            where k.tenant_id = p_tenant_id and k.principal = v_request ->> 'principal'
              and k.key = v_request ->> 'key';
            if found then
                if v_stored.content_digest = v_digests[i] then
                    v_results[i].status := 'replayed';
                    v_results[i].first_position := v_stored.first_position;
                    v_results[i].created_at := counterfoil.time_text(v_stored.created_at);
                else
                    v_results[i].status := 'key_reused';
                end if;
            end if;
        end if;

        if v_results[i].status is null then
            select min(e.nth) - 1 into v_oversize
            from unnest(v_events[v_first : v_first + v_counts[i] - 1]) with ordinality as e (
                agent_name, event_type, payload, payload_bytes, tags, occurred_at, caused_by,
                context, salt, digest, principal, nth)
            where e.payload_bytes > c_payload_bytes_max;
            if v_oversize is not null then
                v_results[i].status := 'payload_too_large';
                v_results[i].detail := array[v_oversize];
            end if;
        end if;

        if v_results[i].status is null and v_condition is not null then
            v_after := coalesce((v_condition ->> 'after')::bigint, 0);
            if v_condition ->> 'incarnation' <> v_incarnation then
                v_results[i].status := 'book_restored';
            elsif v_after > v_head then
                v_results[i].status := 'after_above_head';
            else
                v_conflicts := v_early;
                v_after := greatest(v_after, v_seen);
                if v_after < v_head and cardinality(v_conflicts) < c_conflicts_max then
                    -- The accepted requests before this one in the group count as well:
                    -- they must be in the table before it is asked.
                    if v_pending < v_first then
                        perform counterfoil.write_events(
                            p_tenant_id, v_events[v_pending : v_first - 1],
                            v_head - (v_first - v_pending), v_now);
                        v_pending := v_first;
                    end if;
                    v_conflicts := v_conflicts || array(
                        select counterfoil.matching_v1(
                            p_tenant_id, v_condition -> 'fail_if', null, v_after, v_head,
                            c_conflicts_max - cardinality(v_conflicts), false));
                end if;
                if cardinality(v_conflicts) > 0 then
                    v_results[i].status := 'condition_failed';
                    v_results[i].detail := v_conflicts;
                end if;
            end if;
        end if;

        if v_results[i].status is null and (v_request ->> 'cause_max')::bigint > v_head then
            v_results[i].status := 'unknown_cause';
        end if;

        if v_results[i].status is null then
            v_results[i].status := 'stored';
            v_results[i].first_position := v_head + 1;
            v_results[i].created_at := counterfoil.time_text(v_now);
            if v_request ? 'key' then
                insert into counterfoil.idempotency_keys (
                    tenant_id, principal, key, content_digest, first_position, event_count,
                    created_at)
                values (p_tenant_id, v_request ->> 'principal', v_request ->> 'key',
                        v_digests[i], v_head + 1, v_counts[i], v_now);
            end if;
            v_head := v_head + v_counts[i];
            v_results[i].head := v_head;
        else
            -- A refused request leaves a hole in v_events: what was accepted before it
            -- is written now, and the next run begins behind it.
            if v_pending < v_first then
                perform counterfoil.write_events(
                    p_tenant_id, v_events[v_pending : v_first - 1],
                    v_head - (v_first - v_pending), v_now);
            end if;
            v_pending := v_first + v_counts[i];
        end if;
        v_first := v_first + v_counts[i];
    end loop;

    if v_pending < v_first then
        perform counterfoil.write_events(
            p_tenant_id, v_events[v_pending : v_first - 1], v_head - (v_first - v_pending), v_now);
    end if;

    return query select r.* from unnest(v_results) as r;
end
$$;

-- The book opens: tables, matching, the append and the roles, as .. had them when
-- this was the first version. Once released, a migration is never edited: what comes
-- later is a migration of its own.

-- The book: its tables, and what keeps them immutable.
--
-- This folder is the schema as it stands, for reading. A database gets here through
-- migrations/; a test compares the two, so neither can drift.
--
-- Rules that hold throughout:
--   * tenant_id leads every primary key and index. Row-level security, partitioning by
--     tenant and a distributed PostgreSQL all fit without a change of shape.
--   * Text that is compared is COLLATE "C": byte by byte, the same on every machine.
--   * There are no foreign keys from the log. A key from events to books would take a
--     shared lock on the very row that orders all writers; append_v1 holds that row
--     locked anyway, and nothing ever deletes one.

create schema counterfoil;

-- Which migrations have run, and what they were: one that was changed afterwards is refused.
create table counterfoil.schema_migrations (
    version integer not null,
    name text not null,
    checksum text not null,
    applied_at timestamptz not null default clock_timestamp(),
    constraint schema_migrations_pkey primary key (version)
);

-- One row a tenant. The row is the lock that gives the tenant's writers their one order:
-- append_v1 locks it and never updates it, so no dead row versions pile up behind an old
-- snapshot. Where the order stands is the last primary key of events.
create table counterfoil.books (
    tenant_id integer not null,
    name text collate "C" not null,
    -- Changed by `counterfoil recover` after a restore: positions that others have read
    -- may then be given out again, and whatever carries the old incarnation is refused.
    incarnation uuid not null default gen_random_uuid(),
    created_at timestamptz not null default clock_timestamp(),
    constraint books_pkey primary key (tenant_id),
    constraint books_name_is_unique unique (name)
);

-- The events. position is 1, 2, 3 … per tenant without gaps, in the order of commits.
create table counterfoil.events (
    tenant_id integer not null,
    position bigint not null,
    agent_name text collate "C" not null,
    event_type text collate "C" not null,
    -- Null once erased, together with its salt; the digest stays, and with it the proof.
    payload jsonb,
    tags text[] collate "C" not null,
    created_at timestamptz not null,
    occurred_at timestamptz,
    caused_by bigint[] not null,
    context jsonb,
    -- digest = SHA-256(salt || payload as PostgreSQL writes it). Without the salt, a
    -- blanked payload of few possible values could be guessed from its digest.
    salt bytea,
    digest bytea not null,
    -- Who sent it: the principal of the key, not the agent's own claim.
    principal text collate "C" not null,
    constraint events_pkey primary key (tenant_id, position),
    constraint position_is_positive check (position > 0),
    constraint payload_and_salt_go_together check ((payload is null) = (salt is null))
);

create index events_by_type on counterfoil.events (tenant_id, event_type, position);
create index events_by_agent on counterfoil.events (tenant_id, agent_name, position);

-- What each event is about, one row a tag. Beside events.tags this is a second copy, and
-- it earns its place: a condition is checked under the lock of all writers, and near the
-- head this index answers in well under a millisecond whatever the tag, where GIN indexes
-- took up to 240 ms for a common tag.
create table counterfoil.event_tags (
    tenant_id integer not null,
    tag text collate "C" not null,
    position bigint not null,
    constraint event_tags_pkey primary key (tenant_id, tag, position)
);

-- The answers that are given again. Kept as long as the events: a key that was forgotten
-- is a payment that can be booked twice.
create table counterfoil.idempotency_keys (
    tenant_id integer not null,
    principal text collate "C" not null,
    key text collate "C" not null,
    -- SHA-256 of the operation and the content, as parsed: spelling does not count.
    content_digest bytea not null,
    first_position bigint not null,
    event_count integer not null,
    created_at timestamptz not null,
    constraint idempotency_keys_pkey primary key (tenant_id, principal, key)
);

-- The service's role holds no right to change an event. This guards against everyone
-- else, the owner's own slips included: an event can only ever be blanked.
create function counterfoil.refuse_change() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'counterfoil.% only grows: % is refused', tg_table_name, lower(tg_op)
        using errcode = 'restrict_violation';
end
$$;

-- The search path is part of it: with an `=` for rows of its own in front, the eraser could
-- make a forged row equal to the old one. And rows are compared by their bytes (*<>),
-- because to `=` a context of 1.0 and one of 1.00 are the same.
create function counterfoil.refuse_change_but_blanking() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    old.payload := null;
    old.salt := null;
    if new *<> old then
        raise exception 'an event can be blanked (payload and salt set to null), never changed'
            using errcode = 'restrict_violation';
    end if;
    return new;
end
$$;

create trigger events_can_only_be_blanked before update on counterfoil.events
    for each row execute function counterfoil.refuse_change_but_blanking();
create trigger events_stay before delete on counterfoil.events
    for each row execute function counterfoil.refuse_change();
create trigger events_are_not_truncated before truncate on counterfoil.events
    for each statement execute function counterfoil.refuse_change();
create trigger event_tags_stay before update or delete on counterfoil.event_tags
    for each row execute function counterfoil.refuse_change();
create trigger event_tags_are_not_truncated before truncate on counterfoil.event_tags
    for each statement execute function counterfoil.refuse_change();
create trigger idempotency_keys_stay before update or delete on counterfoil.idempotency_keys
    for each row execute function counterfoil.refuse_change();
create trigger idempotency_keys_are_not_truncated before truncate on counterfoil.idempotency_keys
    for each statement execute function counterfoil.refuse_change();
create trigger books_stay before delete on counterfoil.books
    for each row execute function counterfoil.refuse_change();
create trigger books_are_not_truncated before truncate on counterfoil.books
    for each statement execute function counterfoil.refuse_change();

-- The book of `counterfoil dev` and of every installation that never asked for a second.
insert into counterfoil.books (tenant_id, name) values (1, 'default');

-- What a query matches. One definition serves reads, streams and conditions alike: a
-- guard that reads by a query and then writes under it must mean the same twice.
--
-- An event matches a query if it matches any of its items. It matches an item if its
-- type is any of `types`, its agent any of `agents`, and it bears all of `tags`; what an
-- item leaves out, it does not ask. A null query asks nothing: every event matches.
--
-- Each item is looked up by one of what it asks (a tag, its agents, or its types), and
-- what that finds is held against the rest: the way with the fewest events to walk, where
-- the range is wide enough for the choice to matter. Every statement below walks one
-- index in the order of positions and stops at the limit, so that its cost follows what
-- it returns and not the size of the book. That must not hang on statistics, which a new
-- or restored book has none of:
--   * `offset 0` keeps the planner from turning a probe of one row into a hash of all;
--   * an agent (or a type) and a position are bounded together, as a row, and ordered so:
--     only the index on just these gives that order. With `agent_name = …` the planner
--     may take the primary key for its order, and read the whole book for a rare agent;
--   * bitmap and sequential scans are off: both read all that could match and sort it;
--   * the plans are generic, and so the same at every call, and never compiled: that takes
--     longer than such a walk, and a large book's estimates would ask for it.
--
-- STABLE is a promise that matters here: the function looks through the snapshot of the
-- statement that calls it. A page and its head are one snapshot for that reason, and a
-- condition's check sees what was committed while its statement before waited for the lock.
create function counterfoil.matching_v1(
    p_tenant_id integer,
    p_query jsonb,          -- [{"types": [], "agents": [], "tags": []}, …], or null
    p_payload jsonb,        -- what the payload must contain (@>), or null
    p_after bigint,         -- exclusive
    p_up_to bigint,         -- inclusive
    p_limit integer,
    p_newest_first boolean
) returns setof bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_bitmapscan = off
set enable_seqscan = off
set jit = off
rows 100
as $$
declare
    -- Enough to tell rare from common. A range of no more positions is walked as it is.
    c_probe_events constant integer := 1000;
    v_found bigint[] := '{}';
    v_item record;
    v_way text;
    v_lead text;
    v_tag_alone boolean;
begin
    if p_query is null then
        if p_newest_first then
            return query
                select e.position from counterfoil.events e
                where e.tenant_id = p_tenant_id and e.position > p_after and e.position <= p_up_to
                  and (p_payload is null or e.payload @> p_payload)
                order by e.position desc limit p_limit;
        else
            return query
                select e.position from counterfoil.events e
                where e.tenant_id = p_tenant_id and e.position > p_after and e.position <= p_up_to
                  and (p_payload is null or e.payload @> p_payload)
                order by e.position limit p_limit;
        end if;
        return;
    end if;

    for v_item in
        select nullif(i.types, '{}') as types,
               nullif(i.agents, '{}') as agents,
               nullif(i.tags, '{}') as tags
        from jsonb_to_recordset(p_query) as i (types text[], agents text[], tags text[])
    loop
        v_way := case
            when v_item.tags is not null then 'tag'
            when v_item.agents is not null then 'agents'
            when v_item.types is not null then 'types'
        end;
        v_lead := v_item.tags[1];
        if p_up_to - p_after > c_probe_events
           and coalesce(cardinality(v_item.tags), 0) + (v_item.agents is not null)::integer
               + (v_item.types is not null)::integer > 1 then
            select way.name, way.tag into v_way, v_lead
            from (
                select 'tag' as name, wanted.tag, (
                    select count(*) from (
                        select from counterfoil.event_tags t
                        where t.tenant_id = p_tenant_id and t.tag = wanted.tag
                          and t.position > p_after and t.position <= p_up_to
                        limit c_probe_events
                    ) as probe) as events
                from unnest(v_item.tags) as wanted (tag)
                union all
                select 'agents', null, (
                    select count(*) from (
                        select from unnest(v_item.agents) as wanted (agent_name)
                        cross join lateral (
                            select from counterfoil.events e
                            where e.tenant_id = p_tenant_id
                              and (e.agent_name, e.position) > (wanted.agent_name, p_after)
                              and (e.agent_name, e.position) <= (wanted.agent_name, p_up_to)
                            order by e.agent_name, e.position limit c_probe_events
                        ) as by_agent
                        limit c_probe_events
                    ) as probe)
                where v_item.agents is not null
                union all
                select 'types', null, (
                    select count(*) from (
                        select from unnest(v_item.types) as wanted (event_type)
                        cross join lateral (
                            select from counterfoil.events e
                            where e.tenant_id = p_tenant_id
                              and (e.event_type, e.position) > (wanted.event_type, p_after)
                              and (e.event_type, e.position) <= (wanted.event_type, p_up_to)
                            order by e.event_type, e.position limit c_probe_events
                        ) as by_type
                        limit c_probe_events
                    ) as probe)
                where v_item.types is not null
            ) as way
            order by way.events limit 1;
        end if;

        if v_way = 'tag' then
            v_tag_alone := cardinality(v_item.tags) = 1 and v_item.types is null
                and v_item.agents is null and p_payload is null;
            if p_newest_first then
                v_found := v_found || array(
                    select t.position from counterfoil.event_tags t
                    where t.tenant_id = p_tenant_id and t.tag = v_lead
                      and t.position > p_after and t.position <= p_up_to
                      and (v_tag_alone or exists (
                          select from counterfoil.events e
                          where e.tenant_id = p_tenant_id and e.position = t.position
                            and e.tags @> v_item.tags
                            and (v_item.types is null or e.event_type = any (v_item.types))
                            and (v_item.agents is null or e.agent_name = any (v_item.agents))
                            and (p_payload is null or e.payload @> p_payload)
                          offset 0))
                    order by t.position desc limit p_limit);
            else
                v_found := v_found || array(
                    select t.position from counterfoil.event_tags t
                    where t.tenant_id = p_tenant_id and t.tag = v_lead
                      and t.position > p_after and t.position <= p_up_to
                      and (v_tag_alone or exists (
                          select from counterfoil.events e
                          where e.tenant_id = p_tenant_id and e.position = t.position
                            and e.tags @> v_item.tags
                            and (v_item.types is null or e.event_type = any (v_item.types))
                            and (v_item.agents is null or e.agent_name = any (v_item.agents))
                            and (p_payload is null or e.payload @> p_payload)
                          offset 0))
                    order by t.position limit p_limit);
            end if;
        elsif v_way = 'agents' then
            if p_newest_first then
                v_found := v_found || array(
                    select by_agent.position
                    from unnest(v_item.agents) as wanted (agent_name)
                    cross join lateral (
                        select e.position from counterfoil.events e
                        where e.tenant_id = p_tenant_id
                          and (e.agent_name, e.position) > (wanted.agent_name, p_after)
                          and (e.agent_name, e.position) <= (wanted.agent_name, p_up_to)
                          and (v_item.types is null or e.event_type = any (v_item.types))
                          and (v_item.tags is null or e.tags @> v_item.tags)
                          and (p_payload is null or e.payload @> p_payload)
                        order by e.agent_name desc, e.position desc limit p_limit
                    ) as by_agent);
            else
                v_found := v_found || array(
                    select by_agent.position
                    from unnest(v_item.agents) as wanted (agent_name)
                    cross join lateral (
                        select e.position from counterfoil.events e
                        where e.tenant_id = p_tenant_id
                          and (e.agent_name, e.position) > (wanted.agent_name, p_after)
                          and (e.agent_name, e.position) <= (wanted.agent_name, p_up_to)
                          and (v_item.types is null or e.event_type = any (v_item.types))
                          and (v_item.tags is null or e.tags @> v_item.tags)
                          and (p_payload is null or e.payload @> p_payload)
                        order by e.agent_name, e.position limit p_limit
                    ) as by_agent);
            end if;
        elsif v_way = 'types' then
            if p_newest_first then
                v_found := v_found || array(
                    select by_type.position
                    from unnest(v_item.types) as wanted (event_type)
                    cross join lateral (
                        select e.position from counterfoil.events e
                        where e.tenant_id = p_tenant_id
                          and (e.event_type, e.position) > (wanted.event_type, p_after)
                          and (e.event_type, e.position) <= (wanted.event_type, p_up_to)
                          and (v_item.agents is null or e.agent_name = any (v_item.agents))
                          and (v_item.tags is null or e.tags @> v_item.tags)
                          and (p_payload is null or e.payload @> p_payload)
                        order by e.event_type desc, e.position desc limit p_limit
                    ) as by_type);
            else
                v_found := v_found || array(
                    select by_type.position
                    from unnest(v_item.types) as wanted (event_type)
                    cross join lateral (
                        select e.position from counterfoil.events e
                        where e.tenant_id = p_tenant_id
                          and (e.event_type, e.position) > (wanted.event_type, p_after)
                          and (e.event_type, e.position) <= (wanted.event_type, p_up_to)
                          and (v_item.agents is null or e.agent_name = any (v_item.agents))
                          and (v_item.tags is null or e.tags @> v_item.tags)
                          and (p_payload is null or e.payload @> p_payload)
                        order by e.event_type, e.position limit p_limit
                    ) as by_type);
            end if;
        else
            raise exception 'an item of a query must ask for a type, an agent or a tag'
                using errcode = 'invalid_parameter_value';
        end if;
    end loop;

    if p_newest_first then
        return query select distinct f.position from unnest(v_found) as f (position)
            order by f.position desc limit p_limit;
    else
        return query select distinct f.position from unnest(v_found) as f (position)
            order by f.position limit p_limit;
    end if;
end
$$;

-- A time as the service writes it everywhere: ISO 8601, UTC, six digits, with its offset.
create function counterfoil.time_text(p_time timestamptz) returns text
language sql stable parallel safe
return to_char(p_time at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"');

-- An event as the service shows it. The payload is PostgreSQL's own text: nothing on the
-- way to the caller builds it anew, so no number can lose a digit.
create function counterfoil.event_text(e counterfoil.events) returns text
language sql stable parallel safe
return '{"id":' || e.position
    || ',"agent_name":' || to_json(e.agent_name)
    || ',"event_type":' || to_json(e.event_type)
    || ',"payload":' || coalesce(e.payload::text, 'null')
    || ',"tags":' || to_json(e.tags)
    || ',"created_at":"' || counterfoil.time_text(e.created_at)
    || '","occurred_at":' || coalesce('"' || counterfoil.time_text(e.occurred_at) || '"', 'null')
    || ',"caused_by":' || to_json(e.caused_by)
    || ',"context":' || coalesce(e.context::text, 'null')
    || '}';

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

-- Who may do what. The roles are the cluster's, not the database's, and cannot log in:
-- an administrator grants them to the logins that the service and the eraser use.
--
--   counterfoil_service  reads, and appends through append_v1. It holds no INSERT, no
--                        UPDATE and no DELETE on anything.
--   counterfoil_eraser   blanks the payload and the salt of an event, and can do nothing
--                        else: it cannot even read a payload.

do $$
declare
    v_role text;
begin
    foreach v_role in array array['counterfoil_service', 'counterfoil_eraser'] loop
        if not exists (select from pg_roles where rolname = v_role) then
            begin
                execute format('create role %I nologin', v_role);
            exception
                -- Another database of this cluster was migrated at the same moment.
                when duplicate_object or unique_violation then null;
            end;
        end if;
    end loop;
    -- So that an owner who is no superuser can act as the service (`counterfoil dev`). Since
    -- 16, who created a role is a member of it and yet cannot act as it.
    if not pg_has_role('counterfoil_service', case
        when current_setting('server_version_num')::integer >= 160000 then 'set' else 'member'
    end) then
        execute format('grant counterfoil_service to %I', current_user);
    end if;
end
$$;

revoke all on schema counterfoil from public;
revoke all on all tables in schema counterfoil from public;
revoke all on all functions in schema counterfoil from public;

grant usage on schema counterfoil to counterfoil_service, counterfoil_eraser;

grant select on counterfoil.books, counterfoil.events, counterfoil.event_tags,
    counterfoil.schema_migrations to counterfoil_service;
grant execute on function
    counterfoil.append_v1(integer, jsonb, integer),
    counterfoil.matching_v1(integer, jsonb, jsonb, bigint, bigint, integer, boolean),
    counterfoil.time_text(timestamptz),
    counterfoil.event_text(counterfoil.events)
    to counterfoil_service;

grant select (tenant_id, position) on counterfoil.events to counterfoil_eraser;
grant update (payload, salt) on counterfoil.events to counterfoil_eraser;


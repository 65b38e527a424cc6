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
--     shared lock on the very row that orders all writers; append_v2 holds that row
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
-- append_v2 locks it and never updates it, so no dead row versions pile up behind an old
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
            -- Where several are as common as can be told, not by a tag: there each event
            -- costs a lookup of its row, which the other two walk along anyway.
            order by way.events, way.name = 'tag' limit 1;
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
    principal text,
    -- which request of the group it belongs to, counted from 1
    request integer
);

-- One request, taken apart.
create type counterfoil.new_request as (
    principal text,
    key text,
    -- of the content, where there is a key
    content_digest bytea,
    events_count integer,
    -- how many events the group has up to and including this request
    events_to integer,
    -- the highest id that one of its events names as its cause
    cause_max bigint,
    fail_if jsonb,
    condition_after bigint,
    condition_incarnation text
);

-- One value that an item of a condition asks for. Of an item that asks for tags these are
-- its tags, and an event matches it only if all of them occur: `wanted` is their number. Of
-- any other they are its agents, or else its types, and `wanted` is 1.
create type counterfoil.asked_value as (
    request integer,
    item integer,
    way text,           -- tag, agent or type; null where the item asks nothing at all
    value text,
    wanted integer,
    after bigint
);

-- Which requests' conditions may be violated by an event in p_after < position <= p_up_to,
-- looked at no further back than each condition's own `after`. One probe of an index for
-- each value. It tells too many: an item that asks for tags is judged by its tags alone,
-- and by each for itself. It never tells too few.
create function counterfoil.may_match(
    p_tenant_id integer,
    p_asked counterfoil.asked_value[],
    p_after bigint,         -- exclusive
    p_up_to bigint          -- inclusive
) returns integer[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_bitmapscan = off
set enable_seqscan = off
set jit = off
as $$
begin
    return (select array_agg(distinct suspect.request)
    from (
        select a.request
        from unnest(p_asked) as a
        where case a.way
            when 'tag' then (
                select true from counterfoil.event_tags t
                where t.tenant_id = p_tenant_id and t.tag = a.value
                  and t.position > greatest(a.after, p_after) and t.position <= p_up_to
                limit 1)
            when 'agent' then (
                select true from counterfoil.events e
                where e.tenant_id = p_tenant_id
                  and (e.agent_name, e.position) > (a.value, greatest(a.after, p_after))
                  and (e.agent_name, e.position) <= (a.value, p_up_to)
                order by e.agent_name, e.position limit 1)
            when 'type' then (
                select true from counterfoil.events e
                where e.tenant_id = p_tenant_id
                  and (e.event_type, e.position) > (a.value, greatest(a.after, p_after))
                  and (e.event_type, e.position) <= (a.value, p_up_to)
                order by e.event_type, e.position limit 1)
            else true
        end
        group by a.request, a.item, a.wanted
        having count(*) >= a.wanted
    ) as suspect);
end
$$;

-- Which requests' conditions may be violated by an event of an earlier request of the same
-- group. It tells too many as may_match does, and never too few.
create function counterfoil.may_match_in_group(
    p_asked counterfoil.asked_value[],
    p_events counterfoil.new_event[]
) returns integer[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_nestloop = off
as $$
begin
    return (select array_agg(distinct suspect.request)
    from (
        select a.request
        from unnest(p_asked) as a
        join (
            select 'tag' as way, t.tag as value, min(e.request) as request
            from unnest(p_events) as e cross join lateral unnest(e.tags) as t (tag)
            group by t.tag
            union all
            select 'agent', e.agent_name, min(e.request)
            from unnest(p_events) as e group by e.agent_name
            union all
            select 'type', e.event_type, min(e.request)
            from unnest(p_events) as e group by e.event_type
        ) as given on given.way = a.way and given.value = a.value and given.request < a.request
        group by a.request, a.item, a.wanted
        having count(*) >= a.wanted
    ) as suspect);
end
$$;

-- Writes a run of accepted requests: their events at the positions after p_head, their tags
-- and their keys. Only append_v2 may call it, under the lock.
create function counterfoil.write_run(
    p_tenant_id integer,
    p_events counterfoil.new_event[],
    p_requests counterfoil.new_request[],
    -- where the run begins in its group: how many events are before it
    p_events_before integer,
    p_head bigint,
    p_created_at timestamptz,
    p_keyed boolean
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
end
$$;

create function counterfoil.append_v2(
    p_tenant_id integer,
    -- [{"operation", "principal", "key"?, "traceparent"?, "cause_max"?,
    --   "events": [{"agent_name", "event_type", "payload", "tags", "occurred_at"?,
    --               "caused_by"?, "context"?}],
    --   "condition": {"fail_if": query, "after"?, "incarnation"?}?}, …]
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
    --    "status": replayed, key_reused, payload_too_large, book_restored,
    --              after_above_head, condition_failed or unknown_cause,
    --    "head": the book's last position as this request saw it,
    --    "first_position", "created_at": of the answer that is given again,
    --    "detail": condition_failed: the first positions in the way;
    --              payload_too_large: the event's index}
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
    v_answer jsonb;
    v_before integer;                       -- events of the group before this request
    v_run_from integer := 1;                -- the first accepted, unwritten request
    v_run_before integer := 0;              -- events of the group before that one
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'append_v2 must run at READ COMMITTED: what is committed while it waits must be seen'
            using errcode = 'invalid_transaction_state';
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
                       (r.request - array['principal', 'key', 'traceparent'])::text, 'UTF8')) end,
                   r.events_count, r.events_to, (r.request ->> 'cause_max')::bigint,
                   r.request -> 'condition' -> 'fail_if',
                   case when r.request ? 'condition'
                        then coalesce((r.request -> 'condition' ->> 'after')::bigint, 0) end,
                   r.request -> 'condition' ->> 'incarnation'
               )::counterfoil.new_request order by r.nth),
           bool_or(r.request ? 'key'), bool_or(r.request ? 'condition'),
           not bool_or(r.request ?| array['key', 'condition', 'cause_max']),
           -- Counting on with a null would answer `stored` to a group that was not written.
           bool_and(coalesce(r.events_count > 0, false))
    into v_requests, v_keyed, v_conditional, v_plain, v_complete
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
            after, incarnation, nth)
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

    if v_plain then
        perform counterfoil.write_run(
            p_tenant_id, v_events, v_requests, 0, head, v_now, false);
        head := head + cardinality(v_events);
        return;
    end if;

    if v_conditional and head > v_seen then
        v_suspects := array_cat(
            v_suspects, counterfoil.may_match(p_tenant_id, v_asked, v_seen, head));
    end if;
    select array_agg(r.nth order by r.nth) into v_special
    from (
        select r.*, count(*) over (partition by r.principal, r.key) as bearers
        from unnest(v_requests) with ordinality as r (
            principal, key, content_digest, events_count, events_to, cause_max, fail_if,
            after, incarnation, nth)
    ) as r
    where r.nth = any (v_suspects)
       or r.nth = any (v_oversized)
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

        if v_status is not null then
            v_answer := jsonb_build_object(
                'request', v_nth - 1, 'status', v_status, 'head', head, 'detail', v_detail);
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

-- Who may do what. The roles are the cluster's, not the database's, and cannot log in:
-- an administrator grants them to the logins that the service and the eraser use.
--
--   counterfoil_service  reads, and appends through append_v2. It holds no INSERT, no
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
    counterfoil.append_v2(integer, jsonb, integer),
    counterfoil.matching_v1(integer, jsonb, jsonb, bigint, bigint, integer, boolean),
    counterfoil.time_text(timestamptz),
    counterfoil.event_text(counterfoil.events)
    to counterfoil_service;

grant select (tenant_id, position) on counterfoil.events to counterfoil_eraser;
grant update (payload, salt) on counterfoil.events to counterfoil_eraser;

